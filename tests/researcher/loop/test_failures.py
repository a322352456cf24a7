"""Failures: three in a row, an incumbent that fails too, what the machine loses, and what is not tried again."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain, count

import pytest

from researcher.decision.rules import REMEASURE_EVERY, CrashReset
from researcher.errors import Rejected
from researcher.journal.reader import JournalReader
from researcher.journal.records import ConfirmationKind, ConfirmationVerdict, Goal, PauseCause
from researcher.loop.context import PauseBackoffs, RunContext
from researcher.loop.loop import run_until_goal
from researcher.proposers.novelty import objection
from researcher.queues.trials import Absent, JobFault, TrialQueue, Waiting
from researcher.source.proposal import Proposal, ProposerName, WholeFile
from researcher.source.validation import validate
from tests.fixtures.loop_in_process import REFUSED, Happening, level, opened, run_listed
from tests.fixtures.scripted_run import SUBJECT, ScriptedRun
from trainer.jobs import Kind, Outcome, RedisClient, TrialResult

BAD: list[Happening] = [
    level(1.01, "fate: crashed"),
    level(1.02, "fate: out_of_memory"),
    level(1.03, "fate: timed_out"),
]
FAILS_NOW = "fate of drift: crashed"


def verdicts(scripted_run: ScriptedRun) -> list[tuple[ConfirmationKind, ConfirmationVerdict | None]]:
    with JournalReader(scripted_run.journal) as history:
        return [(each.kind, each.verdict) for each in history.confirmations()]


@pytest.mark.parametrize(
    ("confirmed", "provisional", "crash_reset", "left"),
    [
        (level(1.7), level(1.68), CrashReset.CONFIRMED, level(1.68)),
        (level(1.7), level(1.68, FAILS_NOW), CrashReset.CONFIRMED, level(1.7)),
        (level(1.7, FAILS_NOW), level(1.68, FAILS_NOW), CrashReset.CONFIRMED, SUBJECT),
        (level(1.7), level(1.68), CrashReset.BASELINE, SUBJECT),
    ],
    ids=["the incumbent works", "it fails", "the confirmed state fails too", "CRASH_RESET=baseline"],
)
def test_after_three_failures_in_a_row_train_py_is_byte_for_byte_the_state_that_is_left(
    scripted_run: ScriptedRun, confirmed: str, provisional: str, crash_reset: CrashReset, left: str
) -> None:
    scripted_run.start_trainer()

    run_listed(scripted_run, [confirmed, provisional, *BAD], crash_reset=crash_reset)

    assert (scripted_run.subject / "train.py").read_bytes() == left.encode()
    with JournalReader(scripted_run.journal) as history:
        run = history.run()
        assert run is not None
        assert run.incumbent == run.confirmed
        assert history.source(run.incumbent or 0) == left


def test_the_way_down_asks_every_state_and_the_straight_one_none(scripted_run: ScriptedRun) -> None:
    scripted_run.start_trainer()
    claim, fails, holds = (
        (ConfirmationKind.CLAIM, ConfirmationVerdict.CONFIRMED),
        (ConfirmationKind.INCUMBENT, ConfirmationVerdict.FAILS),
        (ConfirmationKind.INCUMBENT, ConfirmationVerdict.HOLDS),
    )

    run_listed(scripted_run, [level(1.7, FAILS_NOW), level(1.68, FAILS_NOW), *BAD])
    assert verdicts(scripted_run) == [claim, fails, fails, holds]

    run_listed(scripted_run, [level(1.6), *map(again, BAD)], crash_reset=CrashReset.BASELINE)
    assert verdicts(scripted_run)[4:] == [claim, (ConfirmationKind.INCUMBENT, ConfirmationVerdict.ROLLED_BACK)]


def test_the_straight_way_down_is_not_taken_by_an_incumbent_that_is_only_measured_again(
    scripted_run: ScriptedRun,
) -> None:
    scripted_run.start_trainer()
    worse: list[Happening] = [level(1.75 + number / 1000) for number in range(REMEASURE_EVERY + 1)]

    run_listed(scripted_run, [level(1.7), *worse], crash_reset=CrashReset.BASELINE)

    assert verdicts(scripted_run) == [
        (ConfirmationKind.CLAIM, ConfirmationVerdict.CONFIRMED),
        (ConfirmationKind.INCUMBENT, ConfirmationVerdict.HOLDS),
    ]


def again(source: Happening) -> str:
    """Another candidate with the same fate."""
    assert isinstance(source, str)
    return source.replace("WIDTH = 64", "WIDTH = 32")


def test_a_dozen_refusals_between_failures_hide_none(scripted_run: ScriptedRun) -> None:
    scripted_run.start_trainer()

    run_listed(scripted_run, [BAD[0], *[REFUSED] * 12, BAD[1], REFUSED, BAD[2]])

    assert verdicts(scripted_run) == [(ConfirmationKind.INCUMBENT, ConfirmationVerdict.HOLDS)]


def wider(source: str) -> str:
    return source.replace("WIDTH = 64", "WIDTH = 128")


def refusal_of(run_context: RunContext, source: str, by: ProposerName) -> str | None:
    """What is said against a train.py as the next candidate."""
    assert run_context.run.incumbent is not None
    proposal = Proposal(by, "wider", "", (WholeFile(source),))
    try:
        validate(proposal, run_context.journal.source(run_context.run.incumbent), objection(run_context.journal, by))
    except Rejected as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("fate", "times", "refused"), [("unscorable", 1, True), ("crashed", 1, False), ("crashed", 2, True)]
)
def test_a_change_that_was_discarded_or_failed_twice_is_refused_on_other_code_too_but_not_to_a_user(
    scripted_run: ScriptedRun, fate: str, times: int, refused: bool
) -> None:
    scripted_run.start_trainer()
    scores = [1.8, 1.78, 1.76][: times + 1]
    tries: list[Happening] = [wider(level(score, f"fate: {fate}")) for score in scores[:-1]]
    keeps: list[Happening] = [level(score) for score in scores[1:]]
    said: list[str | None] = []

    def ask(run_context: RunContext) -> None:
        said.extend(
            refusal_of(run_context, wider(level(scores[-1])), by) for by in (ProposerName.LLM, ProposerName.HUMAN)
        )

    run_listed(scripted_run, [*chain.from_iterable(zip(tries, keeps, strict=True)), ask], goal=Goal())

    to_llm, to_person = said
    assert to_person is None
    assert (to_llm is not None) is refused
    if to_llm is not None:
        assert "the same change was tried on other code (experiment 1: " in to_llm


class LosingTrials(TrialQueue):
    """Loses the first `losses` attempts at trials whose id begins with `trial`."""

    def __init__(self, bus: RedisClient, trial: str, losses: int) -> None:
        super().__init__(bus)
        self._trial = trial
        self.losses = losses

    def poll(self, trial: str, spec_digest: str) -> TrialResult | Waiting | Absent | JobFault:
        if self.losses and trial.startswith(self._trial):
            self.losses -= 1
            return JobFault("the worker was killed")
        return super().poll(trial, spec_digest)


def run_with_losses(scripted_run: ScriptedRun, happenings: list[Happening], trial: str, losses: int) -> list[str]:
    """Every reason for which the run was held, in turn. Time passes quickly in it."""
    held: list[str] = []
    seconds = count()

    with opened(scripted_run, happenings) as run_context:

        def rest() -> None:
            pause = run_context.run.pause
            if pause is not None and pause.message not in held[-1:]:
                held.append(pause.message)

        run_until_goal(
            replace(
                run_context,
                trials=LosingTrials(scripted_run.bus, trial, losses),
                rest=rest,
                clock=lambda: float(next(seconds)),
            )
        )
        assert run_context.run.pause is None
    return held


@pytest.mark.parametrize(("losses", "holds"), [(1, 0), (2, 1), (3, 2), (5, 4)])
def test_a_first_loss_costs_no_time_and_after_more_of_them_the_run_is_held(
    scripted_run: ScriptedRun, losses: int, holds: int
) -> None:
    scripted_run.start_trainer()

    held = run_with_losses(scripted_run, [level(1.79)], "night-0-t0-", losses)

    assert len(held) == holds
    assert all("the worker was killed" in reason and "look at the trainer's log" in reason for reason in held)
    with JournalReader(scripted_run.journal) as history:
        assert history.measured_count() == 1, "the run goes on"
        assert history.trials()[0].outcome is Outcome.OK, "a baseline is measured, however often it is lost"


def test_what_the_machine_loses_rolls_nothing_back(scripted_run: ScriptedRun) -> None:
    scripted_run.start_trainer()

    held = run_with_losses(scripted_run, [level(1.7), *BAD], "night-1-t4-", 3)

    assert verdicts(scripted_run) == [
        (ConfirmationKind.CLAIM, ConfirmationVerdict.CONFIRMED),
        (ConfirmationKind.INCUMBENT, ConfirmationVerdict.HOLDS),
    ]
    assert "the worker was killed" in held[-1]
    with JournalReader(scripted_run.journal) as history:
        kinds = [trial.kind for trial in history.trials()]
        assert kinds[-2:] == [Kind.DRIFT, Kind.DRIFT], "the baseline was seen to run beside what was lost three times"
    assert (scripted_run.subject / "train.py").read_text() == level(1.7)


def test_holds_grow_each_kind_for_itself_up_to_half_an_hour_and_begin_anew_when_it_works() -> None:
    back_off = PauseBackoffs()

    machine = [back_off.next_s(PauseCause.INFRASTRUCTURE) for _ in range(10)]
    subject = [back_off.next_s(PauseCause.SUBJECT) for _ in range(2)]
    back_off.reset(PauseCause.INFRASTRUCTURE)

    assert machine == [10, 20, 40, 80, 160, 320, 640, 1280, 1800, 1800]
    assert subject == [30, 60]
    assert (back_off.next_s(PauseCause.INFRASTRUCTURE), back_off.next_s(PauseCause.SUBJECT)) == (10, 120)


def test_a_baseline_repeat_that_failed_just_before_a_kill_is_not_taken_for_measured(scripted_run: ScriptedRun) -> None:
    scripted_run.start_trainer()
    with opened(scripted_run, []) as run_context:
        baseline = run_context.journal.numbered(0)
        run_context.journal.measuring(baseline)
        trials = [
            run_context.journal.add_trial(run_context.run, baseline.id, Kind.BASELINE, seed=number, at=1.0)
            for number in range(run_context.profile.baseline_repeats)
        ]
        run_context.journal.finish_trial(trials[-1], TrialResult("i", "d", Outcome.CRASHED, "no memory", 1.0, 2.0), 2.0)
    seconds = count()

    with opened(scripted_run, [], goal=Goal(0)) as run_context:
        run_until_goal(replace(run_context, clock=lambda: float(next(seconds))))

    with JournalReader(scripted_run.journal) as history:
        assert [trial.outcome for trial in history.trials()] == [Outcome.OK] * len(trials)
