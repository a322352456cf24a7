"""The `overnight` command as a person and a script meet it: help, completion, tables, errors, limits."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import TypeAdapter
from typer.testing import CliRunner

from researcher.config.setting import moment_of
from researcher.journal.records import Decision
from researcher.report.document import Document
from researcher.report.results_table import COLUMNS
from services import cli
from services.cli import LATER_NAMES
from services.local import OptionRefused, RunOptions, check_options, run_local
from services.machine.state import CHOICES_FILE, RunConfig, State
from tests import ROOT
from tests.fixtures.journal_story import Story
from tests.fixtures.warm_processes import completed

LONG = "SOME_KNOB 1 -> 2 and a reason that is longer than any terminal that a person would open " * 3
NOW = datetime(2027, 1, 31, 22, 4, tzinfo=UTC)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state with a run of three experiments, which runs no more."""
    story = Story(tmp_path / "journal")
    choices = RunConfig(profile="cpu", budget=None, subject=str(tmp_path / "subject"), text=None)
    (tmp_path / "journal" / CHOICES_FILE).write_text(json.dumps(asdict(choices)))
    story.baseline(1.80, 1.82)
    story.try_out(LONG, 1.70, Decision.KEEP)
    story.try_out("[worse]\twith a tab", 1.90, Decision.DISCARD)
    story.try_out("broken", None, Decision.CRASH)
    story.journal.close()
    return tmp_path


def printed(*arguments: str, state: Path, columns: int = 60) -> str:
    done = CliRunner().invoke(cli.app, [*arguments, "--state", str(state)], env={"COLUMNS": str(columns)})
    assert done.exit_code == 0, done.output
    return done.output


def test_help_lists_every_command_in_groups_with_examples() -> None:
    shown = CliRunner().invoke(cli.app, ["--help"], env={"COLUMNS": "120"}).output

    for name in (*LATER_NAMES, "status", "log", "idea", "pause"):
        assert f"│ {name} " in shown
    for group in ("Start", "Look", "Steer"):
        assert f"─ {group} ─" in shown
    assert "overnight run --until 07:00" in shown


@pytest.mark.parametrize("name", [*LATER_NAMES, "status", "log", "diff", "best", "export", "idea", "submit"])
def test_help_of_a_command_has_an_example(name: str) -> None:
    shown = CliRunner().invoke(cli.app, [name, "--help"], env={"COLUMNS": "200"}).output

    assert f"overnight {name}" in shown[shown.index("Example") :]


@pytest.mark.parametrize(
    ("line", "names"), [("overnight st", {"status", "stop"}), ("overnight run --unt", {"--until"})]
)
def test_a_shell_completes_commands_and_options(line: str, names: set[str]) -> None:
    wanted = {"_OVERNIGHT_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}

    done = subprocess.run(
        [sys.executable, "-m", "services.cli"],
        env=os.environ | wanted,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert set(done.stdout.split()) == names


@pytest.mark.parametrize("arguments", [["status", "--json"], ["log", "--tsv"], ["idea", "wider"]])
def test_errors_go_to_stderr_so_that_a_pipe_gets_none(tmp_path: Path, arguments: list[str]) -> None:
    done = completed("services.cli", *arguments, "--state", str(tmp_path), env=dict(os.environ))

    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("overnight: ")


@pytest.mark.parametrize(("command", "code"), [(["doctor"], 1), (["run", "--profile", "cpu"], 2)])
def test_a_missing_git_is_named_with_what_installs_it(tmp_path: Path, command: list[str], code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "services.cli", *command, "--state", str(tmp_path / "state")],
        env=os.environ | {"PATH": str(tmp_path)}, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == code, done.stderr
    assert "sudo apt-get install git" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_pipe_gets_one_whole_line_for_each_experiment(state: Path) -> None:
    header, *lines = printed("log", state=state, columns=40).splitlines()

    assert len(lines) == 4
    assert header.split()[:2] == ["#", "status"]
    assert " ".join(LONG.split()) in lines[1]
    assert "-0.1100" in lines[1], "the difference to the score that it had to beat"
    assert "+0.2000" in lines[2]
    assert "[worse] with a tab" in lines[2]
    assert all(line == line.rstrip() for line in lines)


def test_tsv_and_json_hold_every_column(state: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(printed("log", "--tsv", state=state)), delimiter="\t"))
    objects = json.loads(printed("log", "--json", state=state))

    assert [[*row] for row in rows] == [[*COLUMNS]] * 4
    assert [int(row["number"]) for row in rows] == [each["number"] for each in objects] == [0, 1, 2, 3]
    assert float(rows[1]["delta"]) == objects[1]["delta"] == pytest.approx(-0.11)
    assert rows[3]["value"] == ""
    assert objects[3]["value"] is None
    assert json.loads(printed("log", "1", "--json", state=state)) == objects[1]


def test_status_has_one_headline_and_its_json_the_same(state: Path) -> None:
    shown = printed("status", state=state, columns=120)
    found = json.loads(printed("status", "--json", state=state))

    TypeAdapter(Document).validate_python(found)
    assert found["headline"] == "Perhaps 6.1 % better than the start, not yet measured again (3 tried)"
    assert shown.count(" % ") == 1
    assert found["headline"] in shown
    assert "over the baseline's mean" not in shown
    assert "over the baseline's mean" in printed("status", "--verbose", state=state, columns=120)


def test_the_schema_is_json() -> None:
    shown = CliRunner().invoke(cli.app, ["status", "--schema"]).output

    assert json.loads(shown)["title"] == "Document"


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("23:00", NOW.replace(hour=23, minute=0)),
        ("07:00", NOW.replace(hour=7, minute=0) + timedelta(days=1)),
        ("22:04", NOW + timedelta(days=1)),
        ("2027-02-01T07:00+00:00", NOW.replace(hour=7, minute=0) + timedelta(days=1)),
        ("2027-02-01 08:00+01:00", NOW.replace(hour=7, minute=0) + timedelta(days=1)),
    ],
)
def test_a_time_of_the_day_is_the_next_one(text: str, moment: datetime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")

    assert moment_of(text, NOW) == moment


@pytest.mark.parametrize("text", ["7", "25:00", "seven", "2027-01-30T07:00+00:00", ""])
def test_what_is_no_moment_to_come_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="07:00"):
        moment_of(text, NOW)


def options(**researcher: str) -> RunOptions:
    """Options of a run that is refused later at the latest, for its repository."""
    return RunOptions("cpu", None, Path("/nowhere/at/all"), None, None, unsafe=False, researcher=researcher)


@pytest.mark.parametrize(
    ("researcher", "says"),
    [
        ({"HOURS": "-1"}, "--hours -1 is not a number above 0"),
        ({"MAX_COST": "3"}, "--max-cost needs a price to count with; set --price-per-hour, or --hours instead of it"),
        ({"MAX_COST": "0", "PRICE_PER_HOUR": "1"}, "--max-cost 0 is not"),
        ({"OLLAMA_HOST": "a b:1"}, "--ollama-host"),
    ],
)
def test_options_are_checked_before_anything_starts_in_their_own_names(
    tmp_path: Path, researcher: dict[str, str], says: str
) -> None:
    with pytest.raises(OptionRefused) as refusal:
        run_local(State(tmp_path / "state"), options(**researcher), cli.console)

    assert says in str(refusal.value)
    assert not (tmp_path / "state" / "data").exists()
    assert not (tmp_path / "state" / "redis").exists()


def test_limits_of_the_environment_are_no_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOURS", "a word of the shell's own")

    assert check_options(State(tmp_path), options(), {}).hours is None


@pytest.mark.parametrize("limits", [{"HOURS": "1"}, {"MAX_COST": "5", "PRICE_PER_HOUR": "2"}], ids=["hours", "cost"])
def test_a_limit_that_has_passed_since_the_first_start_is_refused(state: Path, limits: dict[str, str]) -> None:
    with pytest.raises(OptionRefused) as refusal:
        run_local(State(state), options(**limits), cli.console)

    assert "--until" in str(refusal.value)
    assert "--max-cost" in str(refusal.value)
