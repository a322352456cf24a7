"""Accidents of trials as the researcher sees them: what is measured once more, never blamed, or tried again.

Each run is the real loop on a real queue, with a trainer that ends trials as marks in the source say.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from researcher.journal.reader import JournalReader
from researcher.journal.records import ConfirmationKind, ConfirmationVerdict, Decision, Experiment, Goal, Trial
from researcher.loop.context import RunContext
from researcher.loop.loop import run_until_goal
from researcher.queues.trials import Absent, JobFault, TrialQueue, Waiting
from researcher.source.proposal import ProposerName
from services.redis.server import RedisServer
from tests.fixtures.loop_in_process import EndOfList, Happening, level, opened, run_listed
from tests.fixtures.scripted_run import FILES, SUBJECT, ScriptedRun
from tests.researcher.loop.test_failures import BAD, refusal_of, verdicts
from trainer.jobs import Kind, Outcome, TrialResult

CONFIRMED, HOLDS = (
    (ConfirmationKind.CLAIM, ConfirmationVerdict.CONFIRMED),
    (ConfirmationKind.INCUMBENT, ConfirmationVerdict.HOLDS),
)
ROLLED_BACK, FAILS = (
    (ConfirmationKind.CLAIM, ConfirmationVerdict.ROLLED_BACK),
    (ConfirmationKind.INCUMBENT, ConfirmationVerdict.FAILS),
)


def told(scripted_run: ScriptedRun, happenings: list[Happening], **settings: object) -> list[str]:
    """The run to its end; every reason for which it was held. Time passes quickly in it."""
    held: list[str] = []
    seconds = count()
    with opened(scripted_run, happenings, **settings) as run_context:  # type: ignore[arg-type]

        def rest() -> None:
            pause = run_context.run.pause
            if pause is not None and pause.message not in held[-1:]:
                held.append(pause.message)

        with suppress(EndOfList):
            run_until_goal(replace(run_context, rest=rest, clock=lambda: float(next(seconds))))
    return held


def experiments(scripted_run: ScriptedRun) -> list[Experiment]:
    with JournalReader(scripted_run.journal) as history:
        return history.experiments()


def trials(scripted_run: ScriptedRun, kind: Kind) -> list[Trial]:
    with JournalReader(scripted_run.journal) as history:
        return [trial for trial in history.trials() if trial.kind is kind]


ACCIDENTS = ["accident: crashed 1", "accident: unscorable 1", "accident: timed_out 1", "lost: 1", "lost: 2"]


@pytest.mark.parametrize("accident", ACCIDENTS)
def test_an_accident_in_each_of_its_trials_blames_no_candidate_and_rolls_nothing_back(
    accident: str, scripted_run: ScriptedRun
) -> None:
    scripted_run.start_trainer()

    told(scripted_run, [level(1.7, accident), *BAD])

    assert verdicts(scripted_run) == [CONFIRMED, HOLDS]
    assert [item.decision for item in experiments(scripted_run)] == [
        Decision.KEEP,
        Decision.KEEP,
        *[Decision.CRASH] * 3,
    ]
    assert (scripted_run.subject / "train.py").read_text() == level(1.7, accident)


def test_an_accident_of_the_state_that_a_claim_compares_with_holds_and_rolls_back_nothing(
    scripted_run: ScriptedRun,
) -> None:
    scripted_run.start_trainer()
    base = level(1.7, "accident of confirm: crashed 1")

    held = told(scripted_run, [base, level(1.6)])

    assert verdicts(scripted_run) == [CONFIRMED, CONFIRMED]
    assert held == []


def test_a_trial_that_the_llm_disturbed_is_measured_again_as_often_as_it_happens_and_the_run_says_so(
    scripted_run: ScriptedRun,
) -> None:
    scripted_run.start_trainer()

    held = told(scripted_run, [level(1.7, "overlap: 3")])

    (trial,) = trials(scripted_run, Kind.FIRST)
    assert (trial.repeats, trial.disturbed, trial.failed, trial.faults) == (3, 0, 0, 0)
    assert trial.accident == "the LLM may have used the GPU for 2.0 s of its training"
    assert held
    assert all("is measured again: the LLM may have used the GPU" in words for words in held)
    assert [item.decision for item in experiments(scripted_run)] == [Decision.KEEP, Decision.KEEP]


@pytest.mark.parametrize(("hot", "differed"), [(1, 1), (2, 2), (9, 3)])
def test_a_trial_on_a_gpu_that_was_too_hot_is_measured_again_and_at_last_judged(
    hot: int, differed: int, scripted_run: ScriptedRun
) -> None:
    scripted_run.start_trainer()

    run_listed(scripted_run, [level(1.7, f"hot: {hot}")])

    (trial,) = trials(scripted_run, Kind.FIRST)
    assert (trial.differed, trial.disturbed, trial.outcome) == (differed, 0, Outcome.OK)
    assert "the GPU's clock was 1200 MHz (thermal slowdown), usual are 1980" in (trial.machine or "")


@pytest.mark.parametrize("outcome", ["crashed", "out_of_memory", "timed_out"])
def test_a_failure_of_code_that_ran_before_is_asked_about_once_more_with_the_same_seed(
    outcome: str, scripted_run: ScriptedRun
) -> None:
    scripted_run.start_trainer()

    run_listed(scripted_run, [level(1.7, f"stumble of confirm: {outcome} 1", f"stumble of drift: {outcome} 1"), *BAD])

    assert verdicts(scripted_run) == [CONFIRMED, HOLDS]
    asked = [trial for trial in trials(scripted_run, Kind.CONFIRM) if trial.failed]
    assert len(asked) == 3, "each trial of the head failed once"
    assert all(trial.attempt == 1 and (trial.accident or "").startswith(outcome) for trial in asked)


def test_two_failures_in_a_row_are_the_candidates_and_roll_back(scripted_run: ScriptedRun) -> None:
    scripted_run.start_trainer()

    run_listed(scripted_run, [level(1.7, "stumble of confirm: crashed 2")])

    assert verdicts(scripted_run) == [ROLLED_BACK]
    with JournalReader(scripted_run.journal) as history:
        reason = history.confirmations()[0].reason or ""
    assert "experiment 1 crashed twice in a row" in reason


def test_what_is_found_unscorable_in_a_claim_is_rolled_back_at_once(scripted_run: ScriptedRun) -> None:
    scripted_run.start_trainer()

    run_listed(scripted_run, [level(1.7, "stumble of confirm: unscorable 1")])

    assert verdicts(scripted_run) == [ROLLED_BACK]


@pytest.mark.parametrize(("times", "decision"), [(1, Decision.KEEP), (2, Decision.CRASH), (9, Decision.CRASH)])
def test_a_candidate_that_is_killed_twice_in_a_row_has_crashed(
    times: int, decision: Decision, scripted_run: ScriptedRun
) -> None:
    scripted_run.start_trainer()

    run_listed(scripted_run, [level(1.79, f"accident of first: crashed {times}")])

    assert experiments(scripted_run)[1].decision is decision
    (trial,) = trials(scripted_run, Kind.FIRST)
    assert (trial.attempt, trial.disturbed) == (1, 1), "it is set aside once and not for ever"


def test_a_killed_incumbent_confirmation_leads_down_only_when_it_fails_twice(scripted_run: ScriptedRun) -> None:
    scripted_run.start_trainer()

    run_listed(scripted_run, [level(1.7, "accident of drift: crashed 9"), *BAD])

    assert verdicts(scripted_run) == [CONFIRMED, FAILS, HOLDS]
    assert (scripted_run.subject / "train.py").read_text() == SUBJECT
    first, _ = trials(scripted_run, Kind.DRIFT)
    assert first.attempt == 2, "killed, killed again, asked once more"


@pytest.mark.parametrize("kind", ["first", "confirm", "drift"])
def test_a_trial_that_is_always_lost_beside_a_baseline_that_runs_is_the_candidates_failure(
    kind: str, scripted_run: ScriptedRun
) -> None:
    scripted_run.start_trainer()

    told(scripted_run, [level(1.7, f"lost of {kind}: 99"), *BAD])

    item = experiments(scripted_run)[1]
    lost = next(trial for trial in trials(scripted_run, Kind(kind)) if trial.experiment == item.id)
    assert (lost.outcome, lost.attempt) == (Outcome.CRASHED, 3)
    assert "4 attempts in a row were lost, and the baseline ran before the last" in (lost.reason or "")
    assert (item.decision is Decision.CRASH) is (kind == "first")
    assert (scripted_run.subject / "train.py").read_text() == SUBJECT
    assert all(trial.outcome is Outcome.OK for trial in trials(scripted_run, Kind.DRIFT) if trial.experiment != item.id)


def test_a_trial_that_is_lost_while_the_baseline_is_lost_too_is_the_machines_and_waits_for_it(
    tmp_path: Path, server: RedisServer
) -> None:
    source = SUBJECT + "# lost of drift: 2\n"
    scripted_run = ScriptedRun(tmp_path, server, FILES | {"train.py": source})
    scripted_run.start_trainer()

    held = told(scripted_run, [level(1.79, "lost of first: 6")], source=source)
    scripted_run.end()

    assert experiments(scripted_run)[1].decision is Decision.KEEP, (
        "six losses and not four, for the baseline was lost too"
    )
    assert len(held) == 5 + 2, "each loss but the first of the candidate's and of each witness's"
    assert [trial.attempt for trial in trials(scripted_run, Kind.DRIFT)] == [2, 2]


def test_a_researcher_that_dies_while_the_baseline_is_seen_to_run_asks_for_no_second_witness(
    scripted_run: ScriptedRun,
) -> None:
    scripted_run.start_trainer()
    source = level(1.79, "lost of first: 99")

    def dies(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with opened(scripted_run, [source]) as run_context:
        seconds = count()
        quick = replace(run_context, clock=lambda: float(next(seconds)))
        finish = run_context.journal.finish_trial
        run_context.journal.finish_trial = (  # type: ignore[method-assign]
            lambda trial, *rest: dies() if trial.kind is Kind.DRIFT else finish(trial, *rest)
        )
        with pytest.raises(KeyboardInterrupt):
            run_until_goal(quick)
    told(scripted_run, [], goal=Goal(1))

    assert len(trials(scripted_run, Kind.DRIFT)) == 1
    assert experiments(scripted_run)[1].decision is Decision.CRASH


class FailsAsBase(TrialQueue):
    """Experiment 1 runs in its own claim, and crashes in every trial after it."""

    def poll(self, trial: str, spec_digest: str) -> TrialResult | Waiting | Absent | JobFault:
        answer = super().poll(trial, spec_digest)
        number = re.fullmatch(r"night-1-t(\d+)-a\d+", trial)
        if number is None or int(number[1]) < 4 or not isinstance(answer, TrialResult):
            return answer
        assert int(number[1]) < 10, "it is claimed against for ever"
        return replace(answer, outcome=Outcome.CRASHED, val_bpb=None, reason="no GPU")


def test_a_confirmed_state_that_never_runs_again_holds_no_claim_for_ever(scripted_run: ScriptedRun) -> None:
    scripted_run.start_trainer()
    seconds = count()

    with opened(scripted_run, [level(1.7), level(1.6)]) as run_context:
        run_until_goal(replace(run_context, trials=FailsAsBase(scripted_run.bus), clock=lambda: float(next(seconds))))

    claims = (ConfirmationKind.CLAIM, ConfirmationVerdict.FAILS)
    assert verdicts(scripted_run) == [CONFIRMED, claims, claims, CONFIRMED]
    with JournalReader(scripted_run.journal) as history:
        compared = [each.base for each in history.confirmations()]
        numbers = [history.experiment(base or 0).number for base in compared]
    assert numbers == [0, 1, 1, 0]
    assert (scripted_run.subject / "train.py").read_text() == level(1.6)


@pytest.mark.parametrize(
    ("mark", "rolled_back_before", "refused"),
    [
        ("stumble of confirm: crashed 9", 0, False),
        ("stumble of confirm: crashed 9", 1, True),
        ("accident of confirm: crashed 9", 0, False),
        ("lost of confirm: 99", 0, False),
        ("stumble of confirm: unscorable 9", 0, True),
        ("luck: 0.1", 0, True),
    ],
    ids=["crashed", "crashed again", "killed", "lost", "unscorable", "worse"],
)
def test_what_failures_rolled_back_may_be_tried_again_once_and_what_scores_rolled_back_may_not(
    mark: str, rolled_back_before: int, refused: bool, scripted_run: ScriptedRun
) -> None:
    scripted_run.start_trainer()
    source = level(1.81 if "luck" in mark else 1.7, mark)
    said: list[str | None] = []

    def ask(run_context: RunContext) -> None:
        said.append(refusal_of(run_context, source, ProposerName.LLM))

    told(scripted_run, [*[source] * (1 + rolled_back_before), ask], goal=Goal(2 + rolled_back_before))

    assert verdicts(scripted_run) == [ROLLED_BACK] * (1 + rolled_back_before)
    assert (said[-1] is not None) is refused, said
