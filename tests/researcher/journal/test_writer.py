"""The journal: steps only in order, one transaction each, everything there after a kill."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest

from researcher.errors import JournalError
from researcher.journal.database import WriterLock, open_database
from researcher.journal.reader import JournalReader
from researcher.journal.records import (
    ASKED_TO_PAUSE,
    CONFIRM,
    MEASURED,
    Claim,
    Confirmation,
    ConfirmationKind,
    ConfirmationVerdict,
    Decision,
    Goal,
    Pause,
    PauseCause,
    Prices,
    RequestState,
    Ruling,
    Run,
    State,
)
from researcher.journal.writer import Journal
from researcher.source.proposal import Candidate, LlmCost, Proposal, ProposerName, SetKnobs
from trainer.jobs import Kind, Outcome, TrialResult

COST = LlmCost("http://127.0.0.1:1", "small", 2, 900, None, 3.5, 0.25)
PROPOSAL = Proposal(ProposerName.LLM, "LR 1 -> 2", "faster", (SetKnobs({"LR": 2}),), cost=COST)
CANDIDATE = Candidate("LR = 2\n", "f2", "c2", 0)


def result(val_bpb: float | None, outcome: Outcome = Outcome.OK) -> TrialResult:
    return TrialResult("t-1-t0-a0", "d", outcome, "said", 1.0, 2.0, val_bpb=val_bpb)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal(tmp_path)
    yield opened
    opened.close()


def begin(journal: Journal) -> Run:
    return journal.start_run(
        tag="t",
        profile="cpu",
        budget=15.0,
        branch="overnight/t",
        base_commit="c0",
        data_sha256="d",
        seed=1,
        prices=Prices(per_hour=2.0),
        source="LR = 1\n",
        fingerprint="f1",
        at=1.0,
    )


@pytest.fixture
def run(journal: Journal) -> Run:
    """A run whose baseline is measured and applied."""
    run = begin(journal)
    baseline = journal.numbered(0)
    journal.measuring(baseline)
    trial = journal.add_trial(run, baseline.id, Kind.BASELINE, seed=1, at=2.0)
    journal.finish_trial(trial, result(1.8), 3.0)
    journal.decide(baseline, Outcome.OK, Ruling(Decision.KEEP, "baseline", 1.8), 0.01, 4.0)
    journal.applied(baseline, 5.0)
    found = journal.run()
    assert found is not None
    return found


def test_a_kept_baseline_is_incumbent_and_confirmed(journal: Journal, run: Run) -> None:
    baseline = journal.numbered(0)

    assert run.incumbent == run.confirmed == baseline.id
    assert baseline.state is State.APPLIED


def test_an_experiment_walks_its_states_and_a_keep_moves_the_incumbent_with_the_decision(
    journal: Journal, run: Run
) -> None:
    experiment = journal.propose(run, PROPOSAL, CANDIDATE, 6.0)
    assert (experiment.number, experiment.parent, experiment.cost) == (1, run.incumbent, COST)
    journal.committed(experiment, "c1")
    journal.measuring(experiment)

    journal.decide(experiment, Outcome.OK, Ruling(Decision.KEEP, "better", 1.7, 0.0), 0.01, 7.0)

    moved = journal.run()
    assert moved is not None
    assert moved.incumbent == experiment.id
    assert moved.confirmed == run.confirmed
    assert journal.proposal(experiment.id) == PROPOSAL
    assert journal.source(experiment.id) == CANDIDATE.source


def test_nothing_is_decided_twice(journal: Journal, run: Run) -> None:
    experiment = journal.propose(run, PROPOSAL, CANDIDATE, 6.0)
    journal.committed(experiment, "c1")
    journal.measuring(experiment)
    journal.decide(experiment, Outcome.OK, Ruling(Decision.DISCARD, "worse", 1.9, 0.0), 0.01, 7.0)

    with pytest.raises(JournalError):
        journal.decide(experiment, Outcome.OK, Ruling(Decision.KEEP, "better", 1.7, 0.0), 0.01, 8.0)

    after = journal.run()
    assert after is not None
    assert after.incumbent == run.incumbent
    assert journal.numbered(1).decision is Decision.DISCARD


def test_a_step_out_of_order_changes_nothing(journal: Journal, run: Run) -> None:
    experiment = journal.propose(run, PROPOSAL, CANDIDATE, 6.0)

    with pytest.raises(JournalError):
        journal.measuring(experiment)

    assert journal.numbered(1).state is State.PROPOSED


def test_only_one_experiment_is_under_way_at_a_time(journal: Journal, run: Run) -> None:
    journal.propose(run, PROPOSAL, CANDIDATE, 6.0)

    with pytest.raises(sqlite3.IntegrityError):
        journal.propose(run, PROPOSAL, CANDIDATE, 7.0)


def test_a_rejection_is_recorded_with_its_cost_and_counts_as_no_measurement(journal: Journal, run: Run) -> None:
    rejected = journal.reject(run, PROPOSAL, "line 3 does not parse", 6.0)

    assert rejected.outcome is Outcome.REJECTED
    assert rejected.cost == COST
    assert journal.measured_count() == 0
    assert journal.open_experiment() is None
    with pytest.raises(JournalError):
        journal.source(rejected.id)


def test_only_the_current_attempts_answer_is_taken(journal: Journal, run: Run) -> None:
    experiment = journal.propose(run, PROPOSAL, CANDIDATE, 6.0)
    first = journal.add_trial(run, experiment.id, Kind.FIRST, seed=1, at=6.0)
    second = journal.attempt_again(first, fault=True)

    with pytest.raises(JournalError):
        journal.finish_trial(first, result(0.1), 7.0)

    finished = journal.finish_trial(second, result(1.7), 8.0)
    assert (finished.val_bpb, finished.attempt, finished.faults) == (1.7, 1, 1)
    assert journal.result(finished.id) == result(1.7)


def test_an_attempt_is_given_up_once(journal: Journal, run: Run) -> None:
    experiment = journal.propose(run, PROPOSAL, CANDIDATE, 6.0)
    trial = journal.add_trial(run, experiment.id, Kind.FIRST, seed=1, at=6.0)
    journal.attempt_again(trial, fault=True)

    with pytest.raises(JournalError):
        journal.attempt_again(trial, fault=True)

    assert journal.trial(trial.id).attempt == 1


def test_a_measurement_is_set_aside_once_and_counts_for_the_reason_it_was(journal: Journal, run: Run) -> None:
    experiment = journal.propose(run, PROPOSAL, CANDIDATE, 6.0)
    trial = journal.add_trial(run, experiment.id, Kind.CONFIRM, seed=1, at=6.0)

    killed = journal.set_aside(trial, "killed", failed=False)
    with pytest.raises(JournalError):
        journal.set_aside(trial, "killed", failed=False)
    failed = journal.set_aside(killed, "crashed", failed=True)

    assert (failed.attempt, failed.repeats, failed.disturbed, failed.failed) == (2, 2, 1, 1)
    assert (failed.accident, failed.faults) == ("crashed", 0)


def test_a_measured_trial_is_never_measured_again(journal: Journal, run: Run) -> None:
    (trial,) = journal.trials(experiment=run.incumbent)

    with pytest.raises(JournalError):
        journal.measure_again(trial)

    assert journal.trial(trial.id) == trial


def test_every_measured_field_has_a_column_that_a_migration_adds(journal: Journal, tmp_path: Path) -> None:
    with closing(open_database(tmp_path, read_only=True)) as database:
        columns = {row["name"] for row in database.execute("PRAGMA table_info(trial)")}

    assert set(MEASURED) <= columns, f"no migration adds {set(MEASURED) - columns} to the table `trial`"


def test_every_measured_field_is_read_as_it_was_written(journal: Journal, run: Run) -> None:
    measured = {name: float(number) for number, name in enumerate(MEASURED, start=1)}
    trial = journal.add_trial(run, run.incumbent or 0, Kind.CONFIRM, seed=2, at=6.0)

    finished = journal.finish_trial(trial, replace(result(1.0), **measured), 7.0)

    assert {name: getattr(finished, name) for name in MEASURED} == measured


def test_a_trial_that_is_measured_again_has_no_measurement_left(journal: Journal, run: Run) -> None:
    measured = dict.fromkeys(MEASURED, 1.0) | {"val_bpb": None}
    trial = journal.add_trial(run, run.incumbent or 0, Kind.CONFIRM, seed=2, at=6.0)
    finished = journal.finish_trial(trial, replace(result(None, Outcome.LOST), **measured), 7.0)

    again = journal.measure_again(finished)

    assert {getattr(again, name) for name in MEASURED} == {None}
    assert (again.finished, again.attempt, journal.result(again.id)) == (False, 1, None)


def test_only_the_newest_trial_is_begun_again(journal: Journal, run: Run) -> None:
    experiment = journal.propose(run, PROPOSAL, CANDIDATE, 6.0)
    lost = journal.finish_trial(
        journal.add_trial(run, experiment.id, Kind.FIRST, seed=1, at=6.0), result(None, Outcome.LOST), 7.0
    )
    journal.add_trial(run, experiment.id, Kind.CONFIRM, seed=2, at=8.0)

    with pytest.raises(JournalError):
        journal.measure_again(lost)

    assert journal.trial(lost.id) == lost


@pytest.mark.parametrize(("whole", "kept_scores"), [("d", [1.9]), ("another", [None])])
def test_unseen_scores_of_an_open_confirmation_are_dropped_only_with_their_slice(
    journal: Journal, run: Run, whole: str, kept_scores: list[float | None]
) -> None:
    kept = keep(journal, run, 1)
    confirmation = begin_confirmation(journal, run, ConfirmationKind.CLAIM, kept)
    for of_claim in (None, confirmation.id):
        trial = journal.add_trial(run, kept, Kind.CONFIRM, seed=3, at=9.0, confirmation=of_claim)
        journal.finish_trial(trial, replace(result(1.7), unseen_bpb=1.9), 10.0)

    named = journal.name_data(run, whole, "w")

    after = journal.run()
    assert after is not None
    assert (after.data_sha256, after.without_unseen_sha256) == (whole, "w")
    assert (named.data_sha256, named.without_unseen_sha256) == (whole, "w")
    assert [trial.unseen_bpb for trial in journal.trials(confirmation=confirmation.id)] == kept_scores
    assert [trial.val_bpb for trial in journal.trials(confirmation=confirmation.id)] == [1.7]
    assert journal.trials(experiment=kept)[-2].unseen_bpb == 1.9


def test_a_confirmation_is_opened_widened_and_decided_once(journal: Journal, run: Run) -> None:
    kept = keep(journal, run, 1)
    confirmation = begin_confirmation(journal, run, ConfirmationKind.CLAIM, kept)
    with pytest.raises(sqlite3.IntegrityError):
        journal.begin_confirmation(run, ConfirmationKind.CLAIM, kept, run.confirmed, 3, 8.1)
    journal.one_more_pair(confirmation)
    with pytest.raises(JournalError):
        journal.one_more_pair(confirmation)
    claim = Claim(ConfirmationVerdict.CONFIRMED, 0.1, 0.01, 1.7, 1.8, "yes")
    journal.decide_claim(confirmation, claim, 0.01, 9.0)

    with pytest.raises(JournalError):
        journal.decide_claim(confirmation, replace(claim, verdict=ConfirmationVerdict.ROLLED_BACK), 0.01, 9.1)
    with pytest.raises(JournalError):
        journal.decide_confirmation(
            confirmation, ConfirmationVerdict.ROLLED_BACK, "no", 9.2, roll_back_to=run.confirmed
        )

    after = journal.run()
    assert after is not None
    assert after.incumbent == after.confirmed == kept
    assert [(item.pairs, item.verdict) for item in journal.confirmations()] == [(4, ConfirmationVerdict.CONFIRMED)]


def test_a_claim_moves_the_marks_with_its_verdict(journal: Journal, run: Run) -> None:
    experiment = journal.propose(run, PROPOSAL, CANDIDATE, 6.0)
    journal.committed(experiment, "c1")
    journal.measuring(experiment)
    journal.decide(experiment, Outcome.OK, Ruling(Decision.KEEP, "better", 1.7, 0.0), 0.01, 7.0)
    journal.applied(experiment, 7.5)
    claim = Claim(ConfirmationVerdict.ROLLED_BACK, 0.001, 0.01, 1.799, 1.8, "not enough")
    journal.begin_confirmation(run, ConfirmationKind.CLAIM, experiment.id, run.confirmed, 3, 8.0)
    confirmation = journal.open_confirmation()
    assert confirmation is not None

    journal.decide_claim(confirmation, claim, 0.01, 9.0)

    after = journal.run()
    assert after is not None
    assert after.incumbent == after.confirmed == run.confirmed
    (decided,) = journal.confirmations()
    assert (decided.verdict, decided.gain, decided.threshold) == (ConfirmationVerdict.ROLLED_BACK, 0.001, 0.01)


def keep(journal: Journal, run: Run, number: int) -> int:
    experiment = journal.propose(run, PROPOSAL, replace(CANDIDATE, fingerprint=f"f{number}"), 6.0)
    journal.committed(experiment, f"c{number}")
    journal.measuring(experiment)
    journal.decide(experiment, Outcome.OK, Ruling(Decision.KEEP, "better", 1.7, 0.0), 0.01, 7.0)
    journal.applied(journal.numbered(number), 7.5)
    return experiment.id


def begin_confirmation(journal: Journal, run: Run, kind: ConfirmationKind, head: int) -> Confirmation:
    journal.begin_confirmation(run, kind, head, run.confirmed if kind is ConfirmationKind.CLAIM else None, 3, 8.0)
    confirmation = journal.open_confirmation()
    assert confirmation is not None
    return confirmation


@pytest.mark.parametrize(
    ("kind", "verdict", "rolls_back", "state"),
    [
        (ConfirmationKind.CLAIM, ConfirmationVerdict.FAILS, False, RequestState.DONE),
        (ConfirmationKind.CLAIM, ConfirmationVerdict.ROLLED_BACK, True, RequestState.DONE),
        (ConfirmationKind.INCUMBENT, ConfirmationVerdict.FAILS, True, RequestState.DONE),
        (ConfirmationKind.INCUMBENT, ConfirmationVerdict.HOLDS, False, RequestState.WAITING),
    ],
)
def test_who_asked_for_a_claim_is_answered_by_any_confirmation_that_leaves_none_to_make(
    journal: Journal,
    run: Run,
    kind: ConfirmationKind,
    verdict: ConfirmationVerdict,
    rolls_back: bool,
    state: RequestState,
) -> None:
    confirmation = begin_confirmation(journal, run, kind, keep(journal, run, 1))
    journal.receive("r1", CONFIRM, "", "taken in", waiting=True, at=8.5)

    journal.decide_confirmation(confirmation, verdict, "why", 9.0, roll_back_to=run.confirmed if rolls_back else None)

    request = journal.request("r1")
    assert request is not None
    assert request.state is state
    assert request.answer == ("taken in" if state is RequestState.WAITING else f"{verdict.words}: why")


def test_a_run_that_falls_behind_its_confirmed_state_has_that_one_no_more(journal: Journal, run: Run) -> None:
    kept = keep(journal, run, 1)
    claim = begin_confirmation(journal, run, ConfirmationKind.CLAIM, kept)
    journal.decide_claim(
        claim,
        Claim(ConfirmationVerdict.CONFIRMED, 0.1, 0.01, 1.7, 1.8, "yes"),
        0.01,
        9.0,
    )
    journal.confirmation_applied(claim, 9.5)

    journal.decide_confirmation(
        begin_confirmation(journal, run, ConfirmationKind.INCUMBENT, kept),
        ConfirmationVerdict.FAILS,
        "crashed",
        10.0,
        roll_back_to=run.confirmed,
    )

    after = journal.run()
    assert after is not None
    assert after.incumbent == after.confirmed == run.confirmed


def test_a_request_asked_twice_is_taken_in_once_and_keeps_its_first_answer(journal: Journal, run: Run) -> None:
    journal.receive("r1", "idea", "try it", "taken in", waiting=True, at=6.0)

    again = journal.receive("r1", "idea", "something else", "another answer", waiting=True, at=7.0)

    assert (again.body, again.answer) == ("try it", "taken in")
    assert len(journal.requests(RequestState.WAITING)) == 1


def test_an_idea_that_became_an_experiment_says_which(journal: Journal, run: Run) -> None:
    journal.receive("r1", "idea", "try it", "taken in", waiting=True, at=6.0)
    wanted = Proposal(ProposerName.LLM, "t", "h", (SetKnobs({"LR": 2}),), request="r1")

    journal.propose(run, wanted, CANDIDATE, 7.0)

    request = journal.request("r1")
    assert request is not None
    assert (request.state, request.answer) == (RequestState.DONE, "became experiment 1")


def copied_alone(journal: Journal, to: Path) -> Path:
    """Copy the database file without its `-wal`, as a backup of one file does."""
    to.mkdir()
    shutil.copy(journal.folder / "journal.db", to)
    return to


def test_a_copy_of_the_file_alone_holds_the_run_from_its_beginning(tmp_path: Path) -> None:
    with closing(Journal(tmp_path / "journal")) as journal:
        begin(journal)

        with JournalReader(copied_alone(journal, tmp_path / "copy")) as copy:
            assert copy.run() == journal.run()


def test_a_copy_of_the_file_alone_holds_each_decision(journal: Journal, run: Run, tmp_path: Path) -> None:
    with JournalReader(copied_alone(journal, tmp_path / "baseline")) as copy:
        assert copy.numbered(0).decision is Decision.KEEP
    item = journal.propose(run, PROPOSAL, CANDIDATE, 6.0)
    journal.committed(item, "c1")
    journal.measuring(item)
    ruling = Ruling(Decision.KEEP, "better", 1.7)

    journal.decide(item, Outcome.OK, ruling, 0.01, 8.0)

    with JournalReader(copied_alone(journal, tmp_path / "keep")) as copy:
        assert copy.experiment(item.id).decision is Decision.KEEP
        assert copy.run() == journal.run()


def test_a_reader_that_never_ends_delays_no_decision(journal: Journal, run: Run) -> None:
    with closing(sqlite3.connect(journal.folder / "journal.db", isolation_level=None)) as browser:
        browser.execute("BEGIN")
        browser.execute("SELECT * FROM run").fetchall()
        item = journal.propose(run, PROPOSAL, CANDIDATE, 6.0)
        journal.committed(item, "c1")
        journal.measuring(item)

        journal.decide(item, Outcome.OK, Ruling(Decision.DISCARD, "no better", 1.9), 0.01, 8.0)

    assert journal.experiment(item.id).decision is Decision.DISCARD


def test_a_second_writer_is_told_who_holds_the_journal(tmp_path: Path) -> None:
    first = WriterLock(tmp_path)
    first.sign(4321)

    with pytest.raises(JournalError, match="4321"):
        WriterLock(tmp_path)

    first.release()
    WriterLock(tmp_path).release()


def test_a_reader_of_nothing_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="nothing has run"):
        JournalReader(tmp_path / "empty")


def test_a_journal_of_a_newer_version_is_refused_untouched(tmp_path: Path) -> None:
    Journal(tmp_path).close()
    with sqlite3.connect(tmp_path / "journal.db") as database:
        database.execute("PRAGMA user_version = 999")
    database.close()

    with pytest.raises(JournalError, match="newer version"):
        Journal(tmp_path)


@pytest.mark.parametrize(
    ("damage", "read_only"),
    [
        ("PRAGMA user_version = 999", False),
        ("DROP TABLE request; PRAGMA user_version = 3", False),
        ("PRAGMA user_version = 0", True),
    ],
    ids=["newer", "cannot be migrated", "just being made"],
)
def test_a_journal_that_is_refused_is_closed(tmp_path: Path, damage: str, read_only: bool) -> None:
    Journal(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / "journal.db")) as database:
        database.executescript(damage)

    with pytest.raises((JournalError, sqlite3.OperationalError)) as refusal:  # it keeps the frame, and so what is open
        open_database(tmp_path, read_only=read_only)

    open_files = [os.readlink(entry) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
    assert [path for path in open_files if path.startswith(str(tmp_path))] == [], refusal.value


def test_a_journal_of_the_first_version_is_read_as_it_is_and_brought_up_to_date_by_its_writer(tmp_path: Path) -> None:
    first = resources.files("researcher.journal").joinpath("migrations", "001.sql").read_text()
    with sqlite3.connect(tmp_path / "journal.db") as database:
        database.executescript(f"{first}; PRAGMA user_version = 1")
        database.execute(
            "INSERT INTO run (tag, profile, budget, branch, base_commit, data_sha256, seed, created_at)"
            " VALUES ('old', 'cpu', 15, 'b', 'c', 'd', 1, 1)"
        )
    database.close()

    with JournalReader(tmp_path) as history:
        before = history.run()
    journal = Journal(tmp_path)
    run = journal.run()
    assert run is not None
    journal.end(run, "5 of 5 experiments are measured", 7.0)
    after = journal.run()
    journal.close()

    assert before is not None
    assert (before.tag, before.ended, before.goal) == ("old", None, Goal())
    assert after is not None
    assert (after.tag, after.ended, after.ended_at) == ("old", "5 of 5 experiments are measured", 7.0)


@pytest.mark.parametrize("cause", PauseCause)
def test_a_pause_is_read_as_it_was_written_until_the_run_goes_on(journal: Journal, run: Run, cause: PauseCause) -> None:
    journal.pause(run, Pause(cause, "the disk is full"))
    paused = journal.run()
    journal.go_on(run, 9.0)
    going = journal.run()

    assert paused is not None
    assert (paused.pause, paused.paused_by_user) == (Pause(cause, "the disk is full"), cause is PauseCause.USER)
    assert going is not None
    assert (going.pause, going.paused_by_user) == (None, False)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (None, None),
        ("a person asked for it", ASKED_TO_PAUSE),
        ("the baseline fails", Pause(PauseCause.OUTAGE, "the baseline fails")),
    ],
)
def test_a_pause_that_was_written_before_there_were_causes_gets_the_cause_that_fits(
    tmp_path: Path, message: str | None, expected: Pause | None
) -> None:
    migrations = resources.files("researcher.journal").joinpath("migrations")
    with sqlite3.connect(tmp_path / "journal.db") as database:
        for number in range(1, 10):
            database.executescript(migrations.joinpath(f"{number:03}.sql").read_text())
        database.execute("PRAGMA user_version = 9")
        database.execute(
            "INSERT INTO run (tag, profile, budget, branch, base_commit, data_sha256, seed, created_at, paused)"
            " VALUES ('old', 'cpu', 15, 'b', 'c', 'd', 1, 1, ?)",
            (message,),
        )
    database.close()

    with JournalReader(tmp_path) as history:
        before = history.run()
    journal = Journal(tmp_path)
    after = journal.run()
    journal.close()

    assert before is not None
    assert before.pause == expected
    assert after == before


def test_a_price_said_later_counts_from_the_beginning_and_what_is_not_said_stays(journal: Journal, run: Run) -> None:
    journal.price(run, Prices(per_mtoken=3.0))
    said = journal.run()
    journal.price(run, Prices(per_hour=1.0))
    changed = journal.run()

    assert said is not None
    assert said.prices == Prices(per_hour=2.0, per_mtoken=3.0)
    assert changed is not None
    assert changed.prices == Prices(per_hour=1.0, per_mtoken=3.0)


def test_what_was_written_down_survives_kill_9(tmp_path: Path) -> None:
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from researcher.journal.records import Prices\n"
        "from researcher.journal.writer import Journal\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "journal.start_run(tag='t', profile='cpu', budget=15.0, branch='b', base_commit='c', data_sha256='d', seed=1,"
        " prices=Prices(), source='s', fingerprint='f', at=1.0)\n"
        "os.kill(os.getpid(), 9)\n"
    )

    ended = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False, env=os.environ)

    assert ended.returncode == -signal.SIGKILL
    with JournalReader(tmp_path) as history:
        assert history.run() is not None
        assert history.numbered(0).state is State.COMMITTED
