"""Drift: what counts as another machine, and what a run does when it has one. Calibrations as values, runs real."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from statistics import fmean
from typing import Any

import pytest

from researcher.decision.machine_speed import (
    BAND_FLOOR,
    Difference,
    changed_for_good,
    clock_differed,
    judged_all_the_same,
    machine_differed,
)
from researcher.decision.rules import REMEASURE_EVERY
from researcher.journal.reader import JournalReader
from researcher.journal.records import ConfirmationKind, ConfirmationVerdict, Experiment, Goal, Trial
from researcher.journal.writer import Journal
from researcher.queues.trials import TrialQueue
from researcher.report.picture import draw
from researcher.report.view import build_report
from tests.fixtures.loop_in_process import Happening, level, run_listed
from tests.fixtures.scripted_run import ScriptedRun
from trainer.jobs import Calibration, GpuUse, Kind, Outcome, Timing, TrialResult, profile_named

STEADY = [Calibration(0.100, 0.101), Calibration(0.099, 0.100), Calibration(0.100, 0.102)]
UNEASY = [Calibration(0.100, 0.125), Calibration(0.119, 0.102), Calibration(0.102, 0.100), Calibration(0.118, 0.110)]


@pytest.mark.parametrize(
    ("known", "before_s", "after_s", "said"),
    [
        (STEADY, 0.110, 0.112, None),
        (STEADY, 0.150, 0.140, "40% slower"),
        (STEADY, 0.150, 0.100, None),
        (STEADY, 0.100, 0.150, None),
        (STEADY, 0.070, 0.050, "43% faster"),
        (STEADY, 0.070, 0.100, None),
        (STEADY, 0.150, 0.070, None),
        (STEADY, 0.130, None, "30% slower"),
        (UNEASY, 0.125, 0.125, None),
        (UNEASY, 0.200, 0.190, "slower"),
        ([], 0.5, 0.5, None),
    ],
)
def test_a_machine_differs_when_it_was_out_of_the_band_on_both_sides(
    known: list[Calibration], before_s: float, after_s: float | None, said: str | None
) -> None:
    differed = machine_differed(Calibration(before_s, after_s), known)

    assert (differed is None) == (said is None)
    if differed is not None:
        assert said is not None
        assert said in differed.words
        assert differed.faster == ("faster" in said)


def test_the_band_is_never_narrower_than_its_floor_and_the_reason_names_it() -> None:
    differed = machine_differed(Calibration(0.2, 0.2), STEADY[:1])

    assert differed is not None
    assert f"{BAND_FLOOR:.0%} is allowed" in differed.words


def test_a_trial_that_nobody_calibrated_does_not_differ() -> None:
    assert machine_differed(Calibration(None, None), STEADY) is None


def trial(kind: Kind, differed: int = 0) -> Trial:
    return Trial(
        id=1, experiment=1, confirmation=None, kind=kind, number=0, attempt=0, faults=0, seed=1, finished=True,
        outcome=Outcome.OK, score_to_beat=None, reason=None, queued_at=0.0, finished_at=None, differed=differed,
    )  # fmt: skip


@pytest.mark.parametrize(("differed", "for_good"), [(0, False), (2, False), (3, True)])
def test_a_machine_that_differed_in_all_attempts_of_a_trial_has_changed_for_good(differed: int, for_good: bool) -> None:
    assert changed_for_good(trial(Kind.FIRST, differed)) is for_good


def measured_experiment(scripted_run: ScriptedRun, number: int) -> tuple[Experiment, Trial]:
    with JournalReader(scripted_run.journal) as history:
        experiment = history.numbered(number)
        return experiment, history.trials(experiment=experiment.id)[0]


def test_a_trial_on_a_slow_machine_is_measured_again_and_judged_once_by_the_next_attempt(
    scripted_run: ScriptedRun,
) -> None:
    scripted_run.start_trainer()

    run_listed(scripted_run, [level(1.79, "slow: 1")])

    experiment, first = measured_experiment(scripted_run, 1)
    assert (first.attempt, first.differed, first.faults) == (1, 1, 0)
    with JournalReader(scripted_run.journal) as history:
        shown, repeated = build_report(history, profile_named("cpu")), sum(each.differed for each in history.trials())
    assert shown is not None
    assert (shown.tally["infrastructure"], shown.tally["repeated"]) == (0, repeated), (
        "its claim's trials were slow at first, too"
    )
    assert "measured again (1 of at most 2): the machine was 50% slower than usual" in (experiment.reason or "")


def result(steps: int | None, timed: float | None = 15.0, bpb: float = 1.0) -> TrialResult:
    times = Timing(processor_s=20.0, timed=timed)
    return TrialResult(
        id="one", spec_digest="", outcome=Outcome.OK, reason="", started_at=0.0, finished_at=0.0,
        timing=times, steps=steps, val_bpb=bpb,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "faster", "given", "earlier", "why"),
    [
        (Kind.CONFIRM, False, result(300), [result(280), result(290)], "as fast as"),
        (Kind.CONFIRM, True, result(300), [result(300, timed=10.0)], None),
        (Kind.CONFIRM, False, result(200), [result(280), result(290)], None),
        (Kind.CONFIRM, False, result(300), [], None),
        (Kind.CONFIRM, False, result(300), [result(None)], None),
        (Kind.CONFIRM, False, result(None), [result(300)], None),
        (Kind.CONFIRM, False, result(300, timed=None), [result(300)], None),
        (Kind.CONFIRM, True, result(None, bpb=3.0), [], None),
        (Kind.FIRST, True, result(300, bpb=2.1), [], "lost all the same"),
        (Kind.FIRST, True, result(300, bpb=1.9), [], None),
        (Kind.FIRST, False, result(300, bpb=2.1), [], None),
        (Kind.FIRST, True, replace(result(300), outcome=Outcome.TIMED_OUT, val_bpb=None), [], "lost all the same"),
    ],
)
def test_a_difference_decides_nothing_where_the_code_ran_as_ever_or_lost_on_a_faster_machine(
    kind: Kind, faster: bool, given: TrialResult, earlier: list[TrialResult], why: str | None
) -> None:
    judged = judged_all_the_same(
        replace(trial(kind), score_to_beat=2.0), given, Difference("it differed", faster), earlier
    )

    assert (judged is None) == (why is None)
    assert why is None or why in str(judged)


@pytest.mark.parametrize(
    ("score", "mark", "repeats"),
    [(1.9, "fast: 1", 0), (1.9, "slow: 1", 1), (1.79, "fast: 1", 1)],
    ids=["lost on a faster machine", "lost on a slower machine", "won on a faster machine"],
)
def test_only_a_trial_that_the_machine_may_have_decided_is_measured_again(
    scripted_run: ScriptedRun, score: float, mark: str, repeats: int
) -> None:
    scripted_run.start_trainer()

    run_listed(scripted_run, [level(score, mark)])

    assert measured_experiment(scripted_run, 1)[1].differed == repeats


def test_a_claim_goes_on_where_the_training_was_as_fast_as_ever_whatever_was_timed_beside_it(
    scripted_run: ScriptedRun,
) -> None:
    scripted_run.start_trainer()

    run_listed(scripted_run, [level(1.79, "slow: 1", "steady")])

    with JournalReader(scripted_run.journal) as history:
        first, *repeats = history.trials(experiment=measured_experiment(scripted_run, 1)[0].id)
    assert (first.kind, first.differed) == (Kind.FIRST, 1), "nobody knew yet how fast it runs"
    assert repeats
    assert {(each.kind, each.differed) for each in repeats} == {(Kind.CONFIRM, 0)}


class Killed(BaseException):
    """The researcher ends here."""


@pytest.mark.parametrize(
    ("owner", "name"),
    [(Journal, "repeat_trial"), (TrialQueue, "forget")],
    ids=["before it is written down", "after it is written down"],
)
@pytest.mark.parametrize("step", [1, 2])
def test_a_run_killed_around_a_repeat_repeats_no_more_and_decides_once(
    scripted_run: ScriptedRun, monkeypatch: pytest.MonkeyPatch, owner: type, name: str, step: int
) -> None:
    scripted_run.start_trainer()
    run_listed(scripted_run, [level(1.9)])
    happenings: list[Happening] = [level(1.79, "slow: 2")]
    whole: Callable[..., Any] = getattr(owner, name)
    calls: list[object] = []

    def killed(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == step:
            raise Killed
        return whole(*given)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, killed)
        with pytest.raises(Killed):
            run_listed(scripted_run, happenings)
    run_listed(scripted_run, [level(1.95)], goal=Goal(3))

    experiment, first = measured_experiment(scripted_run, 2)
    assert (first.attempt, first.differed) == (2, 2)
    assert experiment.decision is not None
    with JournalReader(scripted_run.journal) as history:
        assert [item.number for item in history.experiments()] == [0, 1, 2, 3]


def test_a_machine_that_stays_slow_is_judged_after_two_repeats_and_is_the_usual_one_from_then_on(
    scripted_run: ScriptedRun,
) -> None:
    scripted_run.start_trainer()

    run_listed(scripted_run, [level(1.75, "slow: 99"), level(1.9, "slow: 99")])

    changed, first = measured_experiment(scripted_run, 1)
    assert (first.attempt, first.differed) == (2, 3)
    assert "judged all the same after 2 repeats: the machine was 50% slower" in (changed.reason or "")
    assert changed.decision == "keep"
    assert measured_experiment(scripted_run, 2)[1].differed == 0


def test_the_incumbent_is_measured_again_at_once_when_the_machine_has_changed(scripted_run: ScriptedRun) -> None:
    scripted_run.start_trainer()

    run_listed(scripted_run, [level(1.9, "slow: 99"), level(1.91)])

    with JournalReader(scripted_run.journal) as history:
        confirmation = history.confirmations()[0]
        (again,) = history.trials(confirmation=confirmation.id)
    assert (confirmation.kind, confirmation.verdict) == (ConfirmationKind.INCUMBENT, ConfirmationVerdict.HOLDS)
    assert (again.kind, again.experiment) == (Kind.DRIFT, confirmation.head)


def test_after_fifteen_trials_the_incumbent_is_measured_again_and_a_candidate_meets_the_mean_of_both(
    scripted_run: ScriptedRun,
) -> None:
    scripted_run.start_trainer()

    run_listed(scripted_run, [level(1.9 + number / 1000) for number in range(REMEASURE_EVERY + 1)])

    with JournalReader(scripted_run.journal) as history:
        (confirmation,) = history.confirmations()
        (again,) = history.trials(confirmation=confirmation.id)
        (last,) = history.trials(experiment=history.numbered(REMEASURE_EVERY + 1).id)
        scores = history.scores()[confirmation.head]
        shown = build_report(history, profile_named("cpu"))
    assert (confirmation.kind, confirmation.verdict, again.kind) == (
        ConfirmationKind.INCUMBENT,
        ConfirmationVerdict.HOLDS,
        Kind.DRIFT,
    )
    assert len(scores) == profile_named("cpu").baseline_repeats + 1
    assert last.score_to_beat == pytest.approx(fmean(scores))
    assert shown is not None
    assert [each.id for each in shown.remeasured] == [again.id]
    assert draw(shown).startswith(b"\x89PNG")


def test_failures_that_may_become_three_in_a_row_are_not_interrupted(scripted_run: ScriptedRun) -> None:
    scripted_run.start_trainer()
    trials: list[Happening] = [level(1.9 + number / 1000) for number in range(REMEASURE_EVERY - 1)]

    run_listed(scripted_run, [*trials, *(level(1.5 + number / 1000, "fate: crashed") for number in range(3))])

    with JournalReader(scripted_run.journal) as history:
        (confirmation,) = history.confirmations()
        assert [each.kind for each in history.trials()[-2:]] == [Kind.FIRST, Kind.DRIFT]
    assert confirmation.verdict is ConfirmationVerdict.HOLDS


@pytest.mark.parametrize(
    ("clock_mhz", "known_mhz", "faster"),
    [
        (1980.0, [1980.0, 1965.0, 1980.0], None),
        (1750.0, [1980.0, 1965.0, 1980.0], None),
        (1700.0, [1980.0, 1965.0, 1980.0], False),
        (2300.0, [1980.0, 1965.0, 1980.0], True),
        (1200.0, [], None),
        (None, [1980.0], None),
    ],
)
def test_the_clock_of_a_gpu_is_compared_with_that_of_the_reference(
    clock_mhz: float | None, known_mhz: list[float], faster: bool | None
) -> None:
    found = clock_differed(GpuUse(clock_mhz=clock_mhz, throttled=("power limit",)), known_mhz)

    assert (None if found is None else found.faster) is faster
    assert found is None or "MHz (power limit), usual are 1980" in found.words
