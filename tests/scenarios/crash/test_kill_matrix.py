"""Kills from outside in a run of real processes: whoever is killed in whatever trial, no candidate is blamed.

Researcher, RQ, worker, its fork, guardian and candidate are real. Each planned attempt runs a real candidate, and this
process kills one of those around it; what is not killed is answered by the script, so that the run takes seconds.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from researcher.journal.reader import JournalReader
from researcher.journal.records import ConfirmationKind, ConfirmationVerdict, Decision
from researcher.queues.requests import send
from tests.doubles.scripted_trainer import answer
from tests.fixtures.scripted_run import SUBJECT
from tests.fixtures.trials import CAPS, STEPS, miniature, tiny_data
from tests.scenarios.crash import forked_run
from tests.scenarios.crash.checker import check
from tests.scenarios.crash.conftest import report_found
from tests.scenarios.crash.forked_run import ForkedRun
from tests.scenarios.crash.kills import Kill, Moment
from trainer.jobs import Kind, Outcome, TrialResult, TrialSpec, profile_named
from trainer.sandbox.paths import WorkerConfig
from trainer.sandbox.procfs import descendants
from trainer.trial import result_store, trial

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")]

REAL_TRIAL, SCRIPTED_TRIAL = trial.run_trial, forked_run.scripted_trial
BASES = profile_named("cpu").baseline_repeats  # trials of the baseline before the first claim
AROUND = ("guardian", "training", "fork")
# Kind, experiment and number of a trial: who is killed in its first attempt, its second, its third. A trial of its own
# is needed for each kill that may be the candidate's doing, since only one measurement is set aside.
OF_ITS_REPLICA = ("replica", "guardian of the replica")
PLAN: dict[tuple[Kind, str, int], tuple[str, ...]] = {
    (Kind.BASELINE, "0", 0): AROUND,
    (Kind.FIRST, "1", 0): AROUND,
    (Kind.CONFIRM, "1", 1): AROUND,
    (Kind.CONFIRM, "1", 2): OF_ITS_REPLICA,
    (Kind.CONFIRM, "0", BASES): AROUND,
    (Kind.CONFIRM, "0", BASES + 1): OF_ITS_REPLICA,
    (Kind.FIRST, "2", 0): OF_ITS_REPLICA,
    (Kind.DRIFT, "1", 4): AROUND,
}
SOURCES = (
    SUBJECT.replace("LEVEL = 1.8", "LEVEL = 1.7"),  # so good that it is claimed at once
    SUBJECT.replace("LEVEL = 1.8", "LEVEL = 1.75"),
    *(SUBJECT.replace("LEVEL = 1.8", f"LEVEL = 1.{number}") + "# fate: crashed\n" for number in (60, 61, 62)),
)


class Killer:
    """Kills whom an attempt asks for, from the process of the test."""

    def __init__(self, folder: Path) -> None:
        self._wish = folder / "victim"
        self.kills = 0

    def ask(self, victim: str) -> None:
        """In the fork that runs the trial."""
        written = self._wish.with_suffix(".new")
        written.write_text(f"{os.getpid()} {victim}")
        written.replace(self._wish)

    def work(self) -> Iterator[None]:
        """One look for each step."""
        candidate: int | None = None
        while True:
            yield
            if not self._wish.exists():
                candidate = None
                continue
            fork, _, victim = self._wish.read_text().partition(" ")
            guarded = next(iter(self._guarded(int(fork))), None)
            if guarded is None:
                continue
            candidate = candidate or guarded[0]
            if "replica" in victim and guarded[0] == candidate:
                continue  # the replica's guardian is the second one
            guardian, child = guarded
            os.kill({"fork": int(fork), "training": child, "replica": child}.get(victim, guardian), signal.SIGKILL)
            self._wish.unlink()
            self.kills += 1

    def _guarded(self, fork: int) -> Iterator[tuple[int, int]]:
        """The guardian below a fork and what it guards."""
        tree = descendants(fork)
        for process in tree:
            if process.parent == fork and b"trainer.sandbox.guardian" in _command_line(process.pid):
                yield from ((process.pid, child.pid) for child in tree if child.parent == process.pid)


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


@pytest.fixture
def killer(scripted_run: ForkedRun, monkeypatch: pytest.MonkeyPatch) -> Killer:
    """Trainers that are forked from now on run the planned attempts for real."""
    made = Killer(scripted_run.folder)
    data = tiny_data(scripted_run.folder / "tiny")

    def run_trial(spec: TrialSpec, config: WorkerConfig, *_: object) -> TrialResult:
        experiment, _, attempt = spec.id.removeprefix("night-").partition(f"-t{spec.number}-a")
        victims = PLAN.get((spec.kind, experiment, spec.number), ())
        if int(attempt) >= len(victims):
            return SCRIPTED_TRIAL(spec, config)
        victim = victims[int(attempt)]
        stands_in = miniature(data, "tiny" if "replica" in victim else "hangs_in_setup", budget=STEPS, caps=CAPS)
        made.ask(victim)
        played = replace(stands_in, id=spec.id, kind=spec.kind, score_to_beat=99.0)
        result = REAL_TRIAL(played, replace(config, data=data), lambda _: None, lambda: False)
        assert result.outcome is not Outcome.OK, f"{victim} of {spec.id} was not killed"
        return result_store.store(config.results, replace(result, spec_digest=spec.digest))

    monkeypatch.setattr(forked_run, "scripted_trial", run_trial)
    monkeypatch.setattr(forked_run, "DEADLINE_S", 300.0)
    return made


def test_kill_of_anybody_in_any_trial_blames_nobody_and_three_true_crashes_lead_where_they_should(
    scripted_run: ForkedRun, killer: Killer
) -> None:
    for number, source in enumerate(SOURCES, start=1):
        send(scripted_run.bus, "submit", f"mine-{number}.py\n{source}", request=f"submit-{number}")

    code = scripted_run.run_researcher(len(SOURCES), meanwhile=killer.work())

    assert code == 0, scripted_run.last_words()
    assert killer.kills == sum(map(len, PLAN.values())), scripted_run.last_words()
    found = check(scripted_run.folder)
    report_found("kills from outside", found, killer.kills)
    assert found["faults"] == []
    with JournalReader(scripted_run.journal) as history:
        run = history.run()
        decisions = [item.decision for item in history.experiments()]
        confirmations = [(each.kind, each.verdict) for each in history.confirmations()]
        outcomes = {trial.kind: set[Outcome | None]() for trial in history.trials()}
        for each in history.trials():
            outcomes[each.kind].add(each.outcome)
        head = history.numbered(1).id
    assert decisions == [Decision.KEEP, Decision.KEEP, Decision.DISCARD, *[Decision.CRASH] * 3]
    assert confirmations == [
        (ConfirmationKind.CLAIM, ConfirmationVerdict.CONFIRMED),
        (ConfirmationKind.INCUMBENT, ConfirmationVerdict.HOLDS),
    ]
    assert run is not None
    assert run.incumbent == run.confirmed == head
    assert all(outcomes[kind] == {Outcome.OK} for kind in (Kind.BASELINE, Kind.CONFIRM, Kind.DRIFT))


def test_score_that_was_stored_and_never_told_is_the_trials_though_a_later_attempt_would_be_worse(
    scripted_run: ForkedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def worse_each_time(spec: TrialSpec, config: WorkerConfig, *_: object) -> TrialResult:
        if (known := result_store.stored(config.results, spec)) is not None:
            return known
        result = TrialResult.from_json(answer(spec.to_json()))
        assert result.val_bpb is not None
        later = 0.5 * int(spec.id.rpartition("-a")[2])
        return result_store.store(config.results, replace(result, val_bpb=result.val_bpb + later))

    monkeypatch.setattr(forked_run, "scripted_trial", worse_each_time)
    kill = Kill(("trainer.trial.result_store.store",), Moment.AFTER, scripted_run.folder / "armed")
    kill.arm()
    scripted_run.prepare_trainer(kill)

    code = scripted_run.run_researcher(1)

    assert code == 0, scripted_run.last_words()
    assert check(scripted_run.folder)["faults"] == []
    measured = json.loads((scripted_run.folder / "trials" / "night-0-t0-a0" / "result.json").read_text())
    assert scripted_run.row("SELECT attempt, val_bpb FROM trial WHERE id = 1") == (1, measured["val_bpb"])
