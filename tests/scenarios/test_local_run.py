"""The main job for real: `overnight run` with torch, git, a server and RQ, killed and started again."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from pydoc_data.topics import topics

import git
import httpx
import pytest

from researcher.errors import JournalError
from researcher.journal.reader import JournalReader
from researcher.journal.records import State as Step
from researcher.report.picture_layout import LOOKS
from tests import ROOT
from tests.doubles.ollama_server import Turn, ollama_double
from tests.doubles.openai_server import openai_double, spoken
from tests.fixtures.trials import wait_for

DEADLINE_S = 150.0
REPOSITORY = ROOT


class LocalRun:
    """`overnight run` on a state folder, on Python's own manual, with trials of half a second."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "state"
        self.text = folder / "text"
        self.text.mkdir()
        for name, topic in topics.items():
            (self.text / f"{name}.txt").write_text(topic)
        self.output = folder / "output.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start, or go on."""
        usual = ["run", "--state", str(self.state), "--profile", "cpu", "--budget", "0.5", "--text", str(self.text)]
        with self.output.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "services.cli", *usual, *arguments],
                stdout=log,
                stderr=log,
                cwd=REPOSITORY,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - ignored where tests run behind &
            )
        return self._process

    def overnight(self, *arguments: str) -> str:
        """What another `overnight` command prints."""
        done = subprocess.run(
            [sys.executable, "-m", "services.cli", *arguments, "--state", str(self.state)],
            capture_output=True,
            text=True,
            check=False,
            cwd=REPOSITORY,
            env=os.environ | {"COLUMNS": "200"},
        )
        return done.stdout + done.stderr

    def wait_until(self, condition: Callable[[JournalReader], bool]) -> None:
        """Look until the journal satisfies `condition`."""
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            try:
                with JournalReader(self.state / "journal") as history:
                    if history.run() is not None and condition(history):
                        return
            except JournalError:
                pass  # not made yet
            time.sleep(0.05)
        raise AssertionError(f"waited {DEADLINE_S} s in vain\n{self.output.read_text()[-4000:]}")

    def processes(self) -> dict[int, str]:
        """Everything alive that names this state folder in its command line, or works in it."""
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    place = str((entry / "cwd").readlink())
                    environment = (entry / "environ").read_bytes()
                except OSError:  # it is gone, or closed to us
                    continue
                if any(str(self.state) in text for text in (words, place, environment.decode(errors="replace"))):
                    found[int(entry.name)] = words.strip()
        return found

    def pid_of(self, words: str) -> int:
        """The main process of a service, by words of its command line."""
        return min(pid for pid, line in self.processes().items() if words in line)

    def wait_for_candidate(self) -> None:
        """Wait until the process of a candidate runs."""
        deadline = time.monotonic() + DEADLINE_S
        while not any("trainer.candidate.runner" in line for line in self.processes().values()):
            assert time.monotonic() < deadline, f"no candidate runs: {self.processes()}"
            time.sleep(0.05)

    def wait_for_silence(self) -> None:
        """Fails when something of this run is still alive after half a minute."""
        deadline = time.monotonic() + 30
        while left := self.processes():
            assert time.monotonic() < deadline, f"left behind: {left}"
            time.sleep(0.1)

    def end(self) -> None:
        """Stop what is left."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(60)


@pytest.fixture
def local_run(tmp_path: Path) -> Iterator[LocalRun]:
    made = LocalRun(tmp_path)
    yield made
    made.end()


def trials(count: int) -> Callable[[JournalReader], bool]:
    return lambda history: history.trial_count() >= count


@pytest.mark.slow
def test_a_run_survives_the_death_of_its_worker_its_researcher_its_server_and_of_everything(
    local_run: LocalRun,
) -> None:
    local_run.start("--experiments", "3", "--proposer", "optimizer")

    local_run.wait_until(trials(2))
    os.kill(local_run.pid_of("-m trainer"), signal.SIGKILL)
    local_run.wait_until(trials(4))
    os.kill(local_run.pid_of("-m researcher"), signal.SIGKILL)
    local_run.wait_until(trials(5))
    os.kill(local_run.pid_of("-server 127.0.0.1"), signal.SIGKILL)
    local_run.wait_until(lambda history: history.measured_count() >= 1)
    for pid in local_run.processes():
        with contextlib.suppress(ProcessLookupError):  # it died with the one that was killed before it
            os.kill(pid, signal.SIGKILL)
    local_run.end()
    local_run.wait_for_silence()
    again = local_run.start("--experiments", "3")

    assert again.wait(DEADLINE_S) == 0, local_run.output.read_text()[-4000:]
    local_run.wait_for_silence()
    with JournalReader(local_run.state / "journal") as history:
        run, experiments = history.run(), history.experiments()
        assert run is not None
        assert run.incumbent is not None
        assert history.measured_count() == 3
        assert [item.number for item in experiments] == list(range(len(experiments)))
        assert all(item.state is Step.APPLIED for item in experiments)
        head = history.experiment(run.incumbent).commit_sha
    repository = git.Repo(local_run.state / "subject")
    assert repository.head.commit.hexsha == head
    assert not repository.is_dirty()
    repository.close()
    assert (local_run.state / "subject" / "progress.png").read_bytes().startswith(b"\x89PNG")
    assert "measured  3 of 3 experiments: " in local_run.output.read_text()
    for command, expected in {
        "status": "measured  3 of 3 experiments:",
        "log 0": "rows asked again of a fresh process: ",
        "log": "baseline",
        "log 1": "step 00000",
        "best": "val_bpb",
        f"export --to {local_run.state.parent / 'out'}": "written to",
    }.items():
        assert expected in local_run.overnight(*command.split()), command
    assert {path.name for path in (local_run.state.parent / "out").iterdir()} == {
        "results.tsv",
        "results.json",
        "proposers.tsv",
        *LOOKS,
        "train.py",
        "subject.bundle",
    }


@pytest.mark.slow
def test_the_page_is_served_beside_the_run_and_comes_back_when_it_is_killed(local_run: LocalRun) -> None:
    process = local_run.start()
    wait_for(lambda: "page  http://" in local_run.output.read_text(), DEADLINE_S)
    address = local_run.output.read_text().partition("page  ")[2].split()[0]

    wait_for(lambda: state_on_page(address) == "running", DEADLINE_S)
    os.kill(local_run.pid_of("-m services.dashboard"), signal.SIGKILL)
    wait_for(lambda: state_on_page(address) == "running", DEADLINE_S)

    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    local_run.wait_for_silence()  # of the page's process too; the run of another test may have its port by now


def state_on_page(address: str) -> str | None:
    """The state of the run as its page says it, or None without a page."""
    try:
        return str(httpx.get(f"{address}status.json", timeout=30).json()["state"])
    except httpx.TransportError:
        return None


@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)],
    ids=lambda number: number.name,
)
def test_ctrl_c_and_kill_stop_within_seconds_and_leave_no_process(local_run: LocalRun, number: signal.Signals) -> None:
    process = local_run.start()
    local_run.wait_until(trials(1))
    local_run.wait_for_candidate()

    process.send_signal(number)

    assert process.wait(40) == 130
    local_run.wait_for_silence()
    assert "measured again at the next start" in local_run.output.read_text()


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
    ],
    ids=lambda number: number.name,
)
def test_a_signal_in_the_set_up_is_a_stop_and_no_refusal(local_run: LocalRun, number: signal.Signals) -> None:
    process, lock = local_run.start(), local_run.state / "lock"
    wait_for(lambda: lock.exists() and lock.read_text() == str(process.pid), 60)

    process.send_signal(number)

    assert process.wait(40) == 130
    assert "the same command goes on from here" in local_run.output.read_text()
    local_run.wait_for_silence()


@pytest.mark.slow
def test_llm_edits_ideas_files_and_controls_run_the_same_path_while_a_trial_runs(
    local_run: LocalRun, tmp_path: Path
) -> None:
    with ollama_double(lambda _: Turn(nudge="MATRIX_LR", by=1.1)) as llm:
        process = local_run.start("--ollama-host", llm.url, "--model", llm.model, "--proposer", "llm")
        local_run.wait_until(trials(2))

        assert "taken in" in local_run.overnight("idea", "raise the matrix learning rate")
        assert "pausing" in local_run.overnight("pause")
        mine = tmp_path / "mine.py"
        local_run.wait_until(lambda history: history.measured_count() == 0 and bool(history.run()))
        source = (local_run.state / "subject" / "train.py").read_text()
        mine.write_text(source.replace("SCALAR_LR = 0.5", "SCALAR_LR = 0.4"))
        assert "runs next" in local_run.overnight("submit", str(mine))
        assert "going on" in local_run.overnight("resume")
        assert "a run is going on" in local_run.overnight("trial", str(mine))
        local_run.wait_until(lambda history: history.measured_count() >= 2)
        assert "stopping" in local_run.overnight("stop")

    assert process.wait(40) == 0, local_run.output.read_text()[-4000:]
    local_run.wait_for_silence()
    with JournalReader(local_run.state / "journal") as history:
        by = {item.title: item for item in history.experiments()}
        requests = {request.kind: request.answer for request in history.requests()}
    assert "submitted: mine.py" in by
    assert any(item.cost is not None and item.cost.answer_tokens for item in by.values()), "an LLM edit with its cost"
    assert "became experiment" in requests["idea"]
    exchanges = list((local_run.state / "journal" / "experiments").glob("*/exchanges.json.gz"))
    assert exchanges, "prompts and answers are kept beside the experiment"


@pytest.mark.slow
def test_a_second_run_on_the_same_state_is_refused_with_the_holders_pid(local_run: LocalRun) -> None:
    process = local_run.start()
    local_run.wait_until(trials(1))

    said = local_run.overnight("run", "--profile", "cpu", "--budget", "0.5")

    assert f"pid {process.pid}" in said


def test_a_single_trial_is_scored_and_its_log_is_kept(local_run: LocalRun, tmp_path: Path) -> None:
    local_run.overnight("prepare", "--profile", "cpu", "--text", str(local_run.text))
    mine = tmp_path / "train.py"
    mine.write_text("from prepare import *\nraise SystemExit('not today')\n")

    said = local_run.overnight("trial", str(mine))

    assert "crashed" in said
    assert "not today" in said
    assert "log: " in said


@pytest.mark.slow
def test_a_run_continues_with_its_llm_in_another_shell_and_says_so(local_run: LocalRun) -> None:
    with openai_double(spoken("HYPOTHESIS: it helps\nSET DEPTH = 1\n")) as server:
        llm = ("--llm", "openai", "--openai-base-url", server.url, "--model", "large-70b", "--proposer", "llm")
        local_run.start("--experiments", "8", *llm)
        local_run.wait_until(lambda _: len(server.questions) > 0)
        local_run.end()
        local_run.wait_for_silence()
        asked = len(server.questions)
        local_run.start("--experiments", "9")
        local_run.wait_until(lambda _: len(server.questions) > asked)
        local_run.end()

    assert "EXPERIMENTS was 8, and is 9 now" in local_run.output.read_text()
    assert f"OPENAI_BASE_URL={server.url}" in local_run.overnight("status")
