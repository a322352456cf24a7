"""The live view as text: what a person sees at a glance."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from researcher.decision.goal import moment_text
from researcher.journal.records import ConfirmationVerdict, Decision, Goal
from researcher.proposers.escalation import belongs_to
from researcher.report.document import Times
from researcher.report.snapshot import Report, snapshot
from researcher.report.view import LiveStatus, headline
from services import __main__ as stack
from services.machine.state import RunConfig, State
from services.views import terminal
from services.views.local import summary
from services.views.render import Scene, clock_text, confirmation_text, draw, print_line, times_text
from services.views.show import call_text, harmless
from tests import ROOT
from tests.fixtures.journal_story import PROFILE, Story
from trainer.jobs import Outcome, Progress, Status, StatusKind, WorkerRole, WorkerStatus

AT = 1_000_000.0
AWAY = {"llm": "none: away", "dry_runs": "none: no dry-run worker runs"}


def seen(scene: Scene, width: int = 160) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(draw(scene))
    return console.export_text()


def test_before_anything_is_measured_it_says_what_is_going_on() -> None:
    starts = LiveStatus(None, silent="the researcher starts")

    assert "the researcher starts" in seen(Scene(Report(None, starts)))


def test_it_shows_each_worker_and_why_roots_candidates_are_no_other_user() -> None:
    held, idle = Status(StatusKind.HELD, "the disk is full"), Status.working("idle")
    trainer, dry_runs = WorkerRole.TRAINER, WorkerRole.DRY_RUN_WORKER
    workers = (
        WorkerStatus(trainer, "trainer-a", Status.working("timed"), "12gb", None, trial="t-3-t0-a0"),
        WorkerStatus(trainer, "trainer-b", held, None, None),
        WorkerStatus(dry_runs, "dry-run-worker-a", idle, None, None, no_user="uid 1 may not enter"),
    )

    text = seen(Scene(Report(None, LiveStatus(Status.working("waiting"), workers=workers))))

    for expected in (
        "worker    trainer-a (12gb): timed t-3-t0-a0",
        "worker    trainer-b: held: the disk is full",
        "worker    dry-run-worker-a: idle; candidates run as root, without its rights: uid 1 may not enter",
    ):
        assert f"{expected} " in text, expected


def test_a_range_that_is_nearly_right_stands_there_with_its_fix(tmp_path: Path) -> None:
    story = Story(tmp_path, source="RATE = 0.1  # range 0.01 to 1\n")

    text = seen(Scene(snapshot(story.journal, None, PROFILE, 9.0)))
    story.journal.close()

    assert "no range  RATE: " in text
    assert "write 'range 0.01..1'" in text


def test_it_shows_the_running_trial_the_best_the_counts_and_what_is_to_go(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.baseline(1.80, 1.82)
    story.try_out("wider", 1.70, Decision.KEEP)
    story.try_out("broken", None, Decision.CRASH)
    story.journal.limit(story.run, Goal(12))
    now = LiveStatus(Status.working("trial"), "t-3-t0-a0", Progress("timed", 0.4, 6.0, step=40, loss=4.25), notes=AWAY)

    text = seen(Scene(Report(story.report(), now), "the foot", verbose=True))

    story.journal.close()
    for expected in (
        "timed · step 40 · loss 4.2500",
        "result    Perhaps 6.1 % better than the start, not yet measured again (2 tried)",
        "best      experiment 1 (provisional): wider",
        "measured  2 of 12 experiments: 1 kept, 0 discarded, 1 crashed",
        "baseline  1.810000, mean of 2 seeds",
        "best      1.700000, mean of 1 seed",
        "+0.110000 over the baseline's mean, not measured again",
        "LLM       none: away",
        "dry runs  none: no dry-run worker runs",
        "the foot",
    ):
        assert expected in text, expected


def test_a_narrow_terminal_continues_a_line_below_its_text(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.baseline(1.80, 1.82)
    story.try_out("wider", 1.70, Decision.KEEP)
    text = seen(Scene(Report(story.report()), verbose=True), width=40)
    story.journal.close()

    assert "│ result    Perhaps 6.1 % better than  │\n│           the start, not yet         │\n" in text
    assert "│ gain      none confirmed, +0.110000  │\n│           over the baseline's mean,  │\n" in text


def test_a_fall_is_told_in_plain_words_and_names_its_experiment_once(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.baseline(1.80, 1.82)
    story.try_out("wider", 1.70, Decision.KEEP)
    story.fall(f"experiment 1 {Outcome.TIMED_OUT.text} twice in a row: slow")

    text = seen(Scene(Report(story.report()), verbose=True))
    story.journal.close()

    assert "fell      experiment 1: timed out twice in a row: slow" in text


@pytest.mark.parametrize("verdict", ConfirmationVerdict)
def test_no_verdict_is_shown_as_an_identifier(tmp_path: Path, verdict: ConfirmationVerdict) -> None:
    story = Story(tmp_path)
    story.baseline(1.80, 1.82)
    story.try_out("good", 1.70, Decision.KEEP)
    story.claim([1.70] * 3, [1.80] * 3)
    report = story.report()
    story.journal.close()

    line = confirmation_text(report, replace(report.confirmations[0], verdict=verdict))

    assert "_" not in line
    assert f"{verdict.words}: " in line


@pytest.mark.parametrize("terminal", [True, False])
def test_a_line_is_broken_on_a_terminal_only(terminal: bool) -> None:
    console = Console(width=40, file=io.StringIO(), force_terminal=terminal, record=True)

    print_line(console, "why       the first half of the words and the second half of them")

    lines = [line.rstrip() for line in console.export_text().splitlines()]
    whole = ["why       the first half of the words and the second half of them"]
    assert lines == (
        ["why       the first half of the words", "          and the second half of them"] if terminal else whole
    )


def test_a_run_that_has_ended_says_why_also_when_nothing_runs_any_more(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.baseline(1.80, 1.82)
    assert "not running; `overnight run` goes on" in seen(Scene(Report(story.report())))

    story.journal.end(story.run, "8 of 8 experiments are measured", story.tick())

    assert "now  ended: 8 of 8 experiments are measured" in seen(Scene(Report(story.report())))
    story.journal.close()


def test_an_alarm_comes_first() -> None:
    now = LiveStatus(Status.working("trial t-3-t0-a0"))

    text = seen(Scene(Report(None, now, "no trial has ended for 61 s")))

    assert "ALARM no trial has ended for 61 s" in text.splitlines()[1]


def test_a_roll_back_is_told_with_its_reason_and_the_best_by_the_mean_of_its_runs(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.baseline(1.80, 1.82)
    story.try_out("good", 1.60, Decision.KEEP)
    story.claim([1.70] * 4, [1.81] * 4)
    story.try_out("lucky", 1.59, Decision.KEEP)
    story.claim([1.70] * 4, [1.70] * 4)

    text = seen(Scene(Report(story.report()), verbose=True))

    story.journal.close()
    assert "result    6.1 % better than the start, measured again 4 times" in text
    assert "best      experiment 1 (confirmed): good" in text
    assert "best      1.688889, mean of 9 seeds" in text
    assert "fell      experiment 2: 4 fresh seeds give 1.700000 against 1.700000: gain +0.000000" in text


@pytest.mark.parametrize(
    ("times", "goes_on", "text"),
    [
        (Times(AT, 11_520, None, AT + 28_800), True, "running 3 h 12 min, ends about {ends}, confirmation included"),
        (Times(AT, 300, None, None), True, "running 5 min"),
        (Times(AT, 119, None, None), False, "ran 119 s"),
        (Times(AT, 28_800, AT + 28_800, None), False, "ran 8 h 00 min, ended {ends}"),
    ],
)
def test_one_clock_tells_start_duration_and_end_in_wall_time(times: Times, goes_on: bool, text: str) -> None:
    expected = text.format(ends=moment_text(AT + 28_800))

    assert times_text(times, goes_on=goes_on) == f"started {moment_text(AT)}, {expected}"


@pytest.mark.parametrize(
    ("keep", "claimed", "ended", "says"),
    [
        (None, None, False, "Nothing better than the start yet (1 tried)"),
        (None, None, True, "Nothing better than the start was found (1 tried)"),
        (1.70, None, False, "Perhaps 5.6 % better than the start, not yet measured again (2 tried)"),
        (1.70, 1.71, True, "5.0 % better than the start, measured again 3 times"),
        (1.799, 1.7991, True, "Nothing better than the start was found (2 tried)"),
    ],
)
def test_one_sentence_says_what_came_of_it(
    tmp_path: Path, keep: float | None, claimed: float | None, ended: bool, says: str
) -> None:
    story = Story(tmp_path)
    story.baseline(1.80, 1.80)
    story.try_out("worse", 1.96, Decision.DISCARD)
    if keep is not None:
        story.try_out("good", keep, Decision.KEEP)
    if claimed is not None:
        pairs = 3 if claimed < 1.75 else 6  # a claim whose pairs all agree is not given up before
        story.claim([claimed] * pairs, [1.80] * pairs)
    if ended:
        story.journal.end(story.run, "over", story.tick())

    report = story.report()

    story.journal.close()
    assert headline(report) == says


def test_the_summary_names_the_ideas_that_nobody_tried_and_what_came_closest(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.baseline(1.80, 1.80)
    story.try_out("deeper", 1.96, Decision.DISCARD)
    story.journal.receive("r", "idea", "a wider MLP", "kept", waiting=True, at=story.tick())
    console = Console(width=160, file=io.StringIO(), record=True)

    summary(story.journal, PROFILE, tmp_path, console)

    story.journal.close()
    text = console.export_text()
    assert "not tried a wider MLP" in text
    assert "closest   experiment 1, worse by 0.160000: deeper" in text


@pytest.mark.parametrize(("seconds", "text"), [(3, "3 s"), (123, "2:03"), (3723, "1:02:03")])
def test_seconds_are_written_as_users_read_them(seconds: float, text: str) -> None:
    assert clock_text(seconds) == text


HOSTILE = "[/bold] [red]x[/] [redacted] [link=file:///]a] :fire:"


@pytest.mark.parametrize("console", [terminal.console, stack.console], ids=["overnight", "scripts/up"])
def test_what_looks_like_markup_in_a_title_is_shown_as_it_is(
    console: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    story = Story(tmp_path)
    story.baseline(1.80, 1.82)
    story.try_out(HOSTILE, 1.70, Decision.KEEP)
    monkeypatch.setattr(console, "_width", 300)

    with console.capture() as captured:
        live = LiveStatus(Status.working("trial"), HOSTILE, notes={"llm": HOSTILE})
        console.print(draw(Scene(Report(story.report(), live), HOSTILE)))

    story.journal.close()
    assert captured.get().count(HOSTILE) == 5


ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


def test_a_terminal_without_the_characters_of_a_title_shows_question_marks(tmp_path: Path) -> None:
    code = "from services.cli import console; console.print('wider \\u2026 \\u03b1')"

    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | ASCII, capture_output=True, text=True, check=False
    )

    assert (shown.returncode, shown.stdout) == (0, "wider ? ?\n"), shown.stderr


def test_a_source_is_written_out_in_utf8_whatever_the_terminal(tmp_path: Path) -> None:
    source = "A = 1  # α …\n"
    story = Story(tmp_path / "journal", source=source)
    story.baseline(1.80, 1.82)
    story.journal.close()
    State(tmp_path).write(RunConfig("cpu", None, str(tmp_path), None))

    shown = subprocess.run(
        [sys.executable, "-m", "services.cli", "best", "--source", "--state", str(tmp_path)],
        cwd=ROOT, env=os.environ | ASCII, capture_output=True, check=False,
    )  # fmt: skip

    assert shown.stdout == source.encode(), shown.stderr


def test_what_steers_a_terminal_is_no_more_than_seen() -> None:
    assert harmless("+a = '\x1b[2J\x9b'\n+\tb\r") == "+a = '�[2J�'\n+\tb�"


def test_it_shows_what_the_stronger_model_cost_of_its_cap_and_why_it_was_asked(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.baseline(1.80, 1.82)
    calls = [story.journal.begin_call(why="a plateau", endpoint="u", model="m", cap=5.0, worst=0.25) for _ in range(2)]
    told = {"prompt_tokens": 400, "answer_tokens": 100}
    story.journal.end_call(calls[0], **told, money=0.01, fault=None)
    item = story.journal.experiment(story.try_out("wider", 1.85, Decision.DISCARD))
    paid = story.report().paid

    text = seen(Scene(Report(story.report())))

    story.journal.close()
    assert "stronger  m: 0.2600 of 5 spent in 2 calls, the last after experiment 0, because of a plateau" in text
    assert [belongs_to(call, item) for call in paid] == [True, True]
    assert [call_text(call) for call in paid] == [
        "asked because of a plateau: 400 + 100 tokens, cost 0.0100",
        "asked because of a plateau: tokens not known, counted with the most it can cost, 0.2500",
    ]
