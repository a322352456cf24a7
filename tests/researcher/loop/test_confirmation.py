"""When a gain is claimed, what comes of it, and where that stands: journal, git, the answer to whoever asked."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean
from typing import Any

import git
import pytest

from researcher.decision.rules import KEEPS_BEFORE_CLAIM, Rule
from researcher.journal.reader import JournalReader
from researcher.journal.records import (
    ASKED_TO_PAUSE,
    CONFIRM,
    Confirmation,
    ConfirmationVerdict,
    Experiment,
    Goal,
    RequestState,
    Trial,
)
from researcher.loop.context import RunContext
from researcher.loop.loop import run_until_goal
from researcher.loop.request_handler import RequestHandler
from tests.doubles.scripted_trainer import TRIAL_S
from tests.fixtures.loop_in_process import Happening, level, opened, run_listed
from tests.fixtures.scripted_run import ScriptedRun
from trainer.jobs import Kind

JUMP = level(1.7)  # 5.6 % below the baseline's 1.8
FLUKE = level(1.81, "luck: 0.1")


def confirmations_of(scripted_run: ScriptedRun) -> list[Confirmation]:
    with JournalReader(scripted_run.journal) as history:
        return history.confirmations()


def experiment(scripted_run: ScriptedRun, number: int) -> Experiment:
    with JournalReader(scripted_run.journal) as history:
        return history.numbered(number)


def tags(scripted_run: ScriptedRun) -> dict[str, str]:
    with git.Repo(scripted_run.subject) as repository:
        return {tag.name: tag.commit.hexsha for tag in repository.tags}


def ask_to_confirm(run_context: RunContext) -> None:
    RequestHandler(run_context.journal, lambda _: None).receive("asked", CONFIRM, "")


def test_a_jump_that_is_hard_to_believe_is_claimed_before_anything_else(scripted_run: ScriptedRun) -> None:
    scripted_run.start_trainer()

    run_listed(scripted_run, [JUMP, level(1.75)])

    (claim,) = confirmations_of(scripted_run)
    assert claim.verdict is ConfirmationVerdict.CONFIRMED
    assert claim.decided_at is not None
    assert claim.decided_at < experiment(scripted_run, 2).proposed_at


def test_a_fluke_is_rolled_back_at_once_with_the_reason_and_the_files_go_back(scripted_run: ScriptedRun) -> None:
    scripted_run.start_trainer()
    seen: list[str] = []

    run_listed(
        scripted_run, [FLUKE, lambda run_context: seen.append((scripted_run.subject / "train.py").read_text()), JUMP]
    )

    fluke, later = confirmations_of(scripted_run)
    assert fluke.verdict is ConfirmationVerdict.ROLLED_BACK
    assert "4 fresh seeds give" in (fluke.reason or "")
    assert seen == [level(1.8)]
    assert later.verdict is ConfirmationVerdict.CONFIRMED
    assert later.base == fluke.base
    assert "confirmed/1" not in tags(scripted_run)


def test_a_gain_that_is_none_on_unseen_text_is_rolled_back_with_the_reason(scripted_run: ScriptedRun) -> None:
    scripted_run.start_trainer()

    run_listed(scripted_run, [level(1.7, "known: 0.09"), level(1.6)])

    known, honest = confirmations_of(scripted_run)
    assert known.verdict is ConfirmationVerdict.ROLLED_BACK
    assert "but on unseen text it gains less than 33% of that: not confirmed" in (known.reason or "")
    assert known.unseen_gain == pytest.approx(0.01, abs=0.005)
    assert (known.gain or 0) > 0.09, "what the validation rows say"
    assert honest.verdict is ConfirmationVerdict.CONFIRMED
    assert honest.base == known.base
    assert honest.unseen_gain == pytest.approx(0.2, abs=0.01)


def test_small_gains_wait_for_the_end_and_the_plain_rule_believes_any(scripted_run: ScriptedRun) -> None:
    scripted_run.start_trainer()

    run_listed(scripted_run, [level(1.78), level(1.76)])

    (claim,) = confirmations_of(scripted_run)
    assert claim.started_at > (experiment(scripted_run, 2).applied_at or 0)


def test_the_plain_rule_builds_on_a_jump_without_asking(scripted_run: ScriptedRun) -> None:
    scripted_run.start_trainer()

    run_listed(scripted_run, [JUMP, level(1.6)], rule=Rule.GREEDY)

    (claim,) = confirmations_of(scripted_run)
    assert claim.head == experiment(scripted_run, 2).id


@pytest.mark.parametrize(("hours", "heads"), [(2.5 * TRIAL_S / 3600, [3, 6]), (100.0, [5])])
def test_a_claim_comes_after_five_keeps_or_some_hours_of_trials_whatever_restarts(
    scripted_run: ScriptedRun, hours: float, heads: list[int]
) -> None:
    scripted_run.start_trainer()
    steps: list[Happening] = [level(round(1.8 - number / 100, 2)) for number in range(1, 9)]

    run_listed(scripted_run, steps[:2], claim_hours=hours, goal=Goal())
    run_listed(scripted_run, steps[2:], claim_hours=hours, goal=Goal())

    assert [claim.head for claim in confirmations_of(scripted_run)] == [
        experiment(scripted_run, number).id for number in heads
    ]
    assert KEEPS_BEFORE_CLAIM == 5


def test_a_claim_that_a_user_asks_for_comes_next_and_its_verdict_is_the_answer(scripted_run: ScriptedRun) -> None:
    scripted_run.start_trainer()

    run_listed(scripted_run, [level(1.78), ask_to_confirm, level(1.76)])

    first, _ = confirmations_of(scripted_run)
    with JournalReader(scripted_run.journal) as history:
        request = history.request("asked")
    assert first.head == experiment(scripted_run, 1).id
    assert (first.decided_at or 0) < experiment(scripted_run, 2).proposed_at
    assert request is not None
    assert request.state is RequestState.DONE
    assert request.answer.startswith("confirmed: 3 fresh seeds give")


def test_asking_for_a_claim_is_answered_in_words_where_there_is_none_to_make(scripted_run: ScriptedRun) -> None:
    scripted_run.start_trainer()
    said: list[str] = []

    def ask(run_context: RunContext) -> None:
        said.append(RequestHandler(run_context.journal, lambda _: None).receive(f"asked {len(said)}", CONFIRM, ""))

    with opened(scripted_run, [ask, JUMP, ask, level(1.69), ask, level(1.68)]) as run_context:
        ask(run_context)
        run_until_goal(run_context)

    assert said == [
        "nothing to confirm: the baseline is still being measured",
        "nothing to confirm: no experiment beats the baseline so far",
        "nothing to confirm: experiment 1 is confirmed already",
        "taken in; fresh seeds of experiment 2 against experiment 1 after the running trial",
    ]


def test_a_pause_holds_a_claim_between_two_of_its_trials(scripted_run: ScriptedRun) -> None:
    scripted_run.start_trainer()
    rests: list[int] = []

    with opened(scripted_run, [JUMP]) as run_context:
        finish = run_context.journal.finish_trial

        def finish_and_pause(trial: Trial, *rest: Any) -> Trial:
            if trial.kind is Kind.CONFIRM and not rests:
                run_context.journal.pause(run_context.run, ASKED_TO_PAUSE)
            return finish(trial, *rest)

        def rest() -> None:
            rests.append(run_context.journal.trial_count())
            if len(rests) == 3:
                run_context.journal.go_on(run_context.run, run_context.clock())

        run_context.journal.finish_trial = finish_and_pause  # type: ignore[method-assign]
        run_until_goal(replace(run_context, rest=rest))

    assert len(rests) == 3
    assert len(set(rests)) == 1, "no trial is asked for while it is paused"
    assert [claim.verdict for claim in confirmations_of(scripted_run)] == [ConfirmationVerdict.CONFIRMED]


def test_confirmed_states_are_tagged_and_a_tag_that_is_gone_is_made_again(scripted_run: ScriptedRun) -> None:
    scripted_run.start_trainer()
    run_listed(scripted_run, [JUMP, level(1.6)])
    made = tags(scripted_run)
    with git.Repo(scripted_run.subject) as repository:
        repository.delete_tag("confirmed/1")

    run_listed(scripted_run, [])

    assert made == {f"confirmed/{number}": experiment(scripted_run, number).commit_sha for number in (1, 2)}
    assert tags(scripted_run) == made


def test_the_tag_of_another_run_stays_where_it_is(scripted_run: ScriptedRun) -> None:
    with git.Repo(scripted_run.subject) as repository:
        theirs = repository.create_tag("confirmed/1").commit.hexsha
    scripted_run.start_trainer()

    run_listed(scripted_run, [JUMP])
    run_listed(scripted_run, [])

    assert tags(scripted_run) == {"confirmed/1": theirs, "confirmed/night-1": experiment(scripted_run, 1).commit_sha}


def test_a_candidate_must_beat_the_mean_of_all_runs_of_the_incumbent(scripted_run: ScriptedRun) -> None:
    scripted_run.start_trainer()

    run_listed(scripted_run, [level(1.7, "luck: 0.01"), level(1.75)])

    with JournalReader(scripted_run.journal) as history:
        runs = history.scores()[history.numbered(1).id]
        (trial,) = history.trials(experiment=history.numbered(2).id)
    assert len(runs) == 4
    assert trial.score_to_beat == fmean(runs) != runs[0]


def test_a_head_that_does_not_run_again_is_no_gain_also_when_killed_before_that_is_written_down(
    scripted_run: ScriptedRun,
) -> None:
    scripted_run.start_trainer()

    with opened(scripted_run, [level(1.7, "fate of confirm: crashed")]) as run_context:
        run_context.journal.decide_confirmation = killed  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            run_until_goal(run_context)
    run_listed(scripted_run, [])

    (claim,) = confirmations_of(scripted_run)
    assert claim.verdict is ConfirmationVerdict.ROLLED_BACK
    assert "experiment 1 crashed" in (claim.reason or "")
    with JournalReader(scripted_run.journal) as history:
        assert len(history.trials(confirmation=claim.id)) == 1, "the one that crashed is enough"
    with git.Repo(scripted_run.subject) as repository:
        assert repository.head.commit.hexsha == experiment(scripted_run, 0).commit_sha


def killed(*_: object, **__: object) -> None:
    """A kill at this very step."""
    raise KeyboardInterrupt
