"""The decision is a pure function: tables, properties, and the two errors it must not make."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from statistics import fmean
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from researcher.decision.rules import (
    AGREEING_PAIRS_LIMIT,
    CLAIM_PAIRS,
    KEEPS_BEFORE_CLAIM,
    NEAR_THE_END,
    REMEASURE_EVERY,
    Head,
    Rule,
    RunFacts,
    decide,
    is_banned,
    is_implausible,
    judge_claim,
    mean_gain,
    needs_incumbent_confirmation,
    next_confirmation,
    pooled_sigma,
    walk_margin,
)
from researcher.journal.records import ConfirmationKind, ConfirmationVerdict, Decision
from tests.bench.unseen import confirmed
from trainer.jobs import Outcome

SCORES = st.floats(0.1, 10)


@pytest.mark.parametrize(
    ("outcome", "score", "added_lines", "decision"),
    [
        (Outcome.OK, 1.79, 0, Decision.KEEP),
        (Outcome.OK, 1.79, -5, Decision.KEEP),
        (Outcome.OK, 1.80, 0, Decision.DISCARD),
        (Outcome.OK, 1.81, -50, Decision.DISCARD),
        (Outcome.OK, 1.798, 0, Decision.KEEP),
        (Outcome.OK, 1.798, 20, Decision.DISCARD),
        (Outcome.OK, 1.794, 20, Decision.KEEP),
        (Outcome.CRASHED, None, 0, Decision.CRASH),
        (Outcome.OUT_OF_MEMORY, None, 0, Decision.CRASH),
        (Outcome.TIMED_OUT, None, 0, Decision.CRASH),
        (Outcome.UNSCORABLE, None, 0, Decision.DISCARD),
        (Outcome.LOST, None, 0, Decision.DISCARD),
    ],
)
def test_the_walk_keeps_what_is_better_and_asks_more_of_longer_code(
    outcome: Outcome, score: float | None, added_lines: int, decision: Decision
) -> None:
    ruling = decide(
        outcome,
        score,
        parent_scores=[1.80],
        parent_is_incumbent=True,
        added_lines=added_lines,
        sigma=0.01,
        rule=Rule.WALK,
        detail="said the trainer",
    )

    assert ruling.decision is decision
    assert ruling.score == score
    assert (score is not None) or "said the trainer" in ruling.reason


def test_the_greedy_rule_keeps_any_lower_score_however_long_the_code() -> None:
    ruling = decide(
        Outcome.OK,
        1.7999,
        parent_scores=[1.80],
        parent_is_incumbent=True,
        added_lines=500,
        sigma=0.01,
        rule=Rule.GREEDY,
        detail="",
    )

    assert ruling.decision is Decision.KEEP


def test_the_parent_is_the_mean_of_all_its_runs_so_one_lucky_spike_does_not_block_the_run() -> None:
    ruling = decide(
        Outcome.OK,
        1.75,
        parent_scores=[1.70, 1.80, 1.82],
        parent_is_incumbent=True,
        added_lines=0,
        sigma=0.01,
        rule=Rule.WALK,
        detail="",
    )

    assert ruling.decision is Decision.KEEP


@given(
    score=SCORES,
    parent=st.lists(SCORES, min_size=1, max_size=4),
    added=st.integers(-50, 50),
    rule=st.sampled_from(Rule),
)
def test_a_candidate_is_compared_with_its_parent_and_kept_only_where_that_is_the_incumbent(
    score: float, parent: list[float], added: int, rule: Rule
) -> None:
    now, late = (
        decide(
            Outcome.OK, score, parent_scores=parent, parent_is_incumbent=is_incumbent, added_lines=added, sigma=0.1,
            rule=rule, detail="",
        )
        for is_incumbent in (True, False)
    )  # fmt: skip

    gains = fmean(parent) - score > walk_margin(added, 0.1, rule)
    assert now.decision is (Decision.KEEP if gains else Decision.DISCARD)
    assert late.decision is Decision.DISCARD
    assert (late.score, late.margin) == (now.score, now.margin)
    assert (late == now) is not gains, "the reason says why what gained is discarded"


@given(added=st.integers(-500, 500), sigma=st.floats(0, 1))
def test_the_margin_grows_with_added_lines_up_to_half_a_sigma(added: int, sigma: float) -> None:
    margin = walk_margin(added, sigma, Rule.WALK)

    assert 0 <= margin <= sigma / 2
    assert margin <= walk_margin(added + 1, sigma, Rule.WALK)
    assert added > 0 or margin == 0


@given(groups=st.lists(st.lists(SCORES, max_size=5), max_size=5), floor=st.floats(0.001, 1))
@example(groups=[[1.0, 1.0]], floor=0.1)
def test_sigma_never_falls_below_its_floor(groups: list[list[float]], floor: float) -> None:
    assert pooled_sigma(groups, floor) >= floor


def test_sigma_is_pooled_over_groups_and_ignores_their_means() -> None:
    one, shifted = [1.0, 1.2], [5.0, 5.2]

    assert pooled_sigma([one, shifted, [9.9]], 0.0) == pytest.approx(math.sqrt(0.02))


@pytest.mark.parametrize(
    ("head", "base", "verdict"),
    [
        ([1.70] * 3, [1.80] * 3, ConfirmationVerdict.CONFIRMED),
        ([1.79] * 3, [1.80] * 3, None),
        ([1.80] * 3, [1.80] * 3, None),
        ([1.80] * 4, [1.80] * 4, ConfirmationVerdict.ROLLED_BACK),
        ([1.90] * 4, [1.80] * 4, ConfirmationVerdict.ROLLED_BACK),
    ],
)
def test_a_claim_needs_two_sigma_and_gets_one_more_pair_before_it_is_rolled_back(
    head: list[float], base: list[float], verdict: ConfirmationVerdict | None
) -> None:
    assert judge_claim(head, base, sigma=0.01, floor=0.001).verdict is verdict


GAINS = (0.101, 0.102, 0.099, 0.098, 0.1, 0.1)  # of six pairs


@pytest.mark.parametrize(
    ("gains", "pairs", "verdict"),
    [
        (GAINS, 3, ConfirmationVerdict.CONFIRMED),
        ((0.15, 0.09, 0.1, 0.06), 3, None),
        ((0.15, 0.09, 0.1, 0.06), 4, None),
        ((0.15, 0.09, 0.1, -0.001), 4, ConfirmationVerdict.ROLLED_BACK),
        ((0.15, 0.09, 0.1, 0.06, 0.1), 5, ConfirmationVerdict.CONFIRMED),
        ((0.25, 0.05, 0.1, 0.06, 0.1), 5, None),
        ((0.25, 0.05, 0.1, 0.06, -0.001), 5, ConfirmationVerdict.ROLLED_BACK),
        ((0.25, 0.05, 0.1, 0.06, 0.1, 0.1), 6, ConfirmationVerdict.ROLLED_BACK),
    ],
)
def test_pairs_that_agree_confirm_a_gain_although_an_earlier_baseline_was_noisy(
    gains: tuple[float, ...], pairs: int, verdict: ConfirmationVerdict | None
) -> None:
    claim = judge_claim([1.80 - gain for gain in gains[:pairs]], [1.80] * pairs, sigma=0.2, floor=0.003)

    assert claim.verdict is verdict
    assert (claim.gain > claim.threshold) is (verdict is ConfirmationVerdict.CONFIRMED)


def test_pairs_that_scatter_are_not_confirmed_although_sigma_is_small() -> None:
    scattered = judge_claim([1.70, 1.78, 1.76, 1.87], [1.80] * 4, sigma=0.005, floor=0.003)

    assert scattered.gain > 2 * 0.005 * math.sqrt(2 / 4)
    assert scattered.verdict is ConfirmationVerdict.ROLLED_BACK


@pytest.mark.parametrize("pairs", [3, 4, 5, 6])
def test_equal_scores_of_every_seed_do_not_confirm_a_gain_below_the_floor_of_sigma(pairs: int) -> None:
    assert judge_claim([1.799] * pairs, [1.80] * pairs, sigma=0.2, floor=0.003).verdict in (
        None,
        ConfirmationVerdict.ROLLED_BACK,
    )


def test_agreeing_pairs_find_most_gains_that_a_noisy_baseline_would_hide() -> None:
    chance = random.Random(7)

    def is_found(sigma: float) -> bool:
        head, base = ([chance.gauss(truth, 1) for _ in range(AGREEING_PAIRS_LIMIT)] for truth in (0.0, 4.0))
        verdicts = (judge_claim(head[:pairs], base[:pairs], sigma, 0.25).verdict for pairs in range(CLAIM_PAIRS, 7))
        return next(verdict for verdict in verdicts if verdict is not None) is ConfirmationVerdict.CONFIRMED

    assert sum(is_found(sigma=4) for _ in range(500)) > 400, "sigma alone asks for 5.7"


@pytest.mark.parametrize(
    ("unseen_gain", "pairs", "verdict"),
    [
        (0.0987, 3, ConfirmationVerdict.CONFIRMED),
        (0.0437, 3, ConfirmationVerdict.CONFIRMED),
        (0.0321, 3, None),
        (0.0321, 4, ConfirmationVerdict.ROLLED_BACK),
        (-0.0123, 4, ConfirmationVerdict.ROLLED_BACK),
        (None, 3, ConfirmationVerdict.CONFIRMED),
    ],
)
def test_a_claim_needs_a_third_of_its_gain_on_unseen_text(
    unseen_gain: float | None, pairs: int, verdict: ConfirmationVerdict | None
) -> None:
    claim = judge_claim([1.70] * pairs, [1.80] * pairs, 0.01, 0.01, unseen_gain)

    assert claim.verdict is verdict
    assert claim.unseen_gain == unseen_gain
    assert ("unseen text" in claim.reason) is (verdict is not ConfirmationVerdict.CONFIRMED)
    assert unseen_gain is None or str(abs(unseen_gain)) not in claim.reason, "a prompt may quote it"


def test_a_gain_on_unseen_text_makes_up_for_none_on_the_validation_rows() -> None:
    assert judge_claim([1.80] * 4, [1.80] * 4, 0.01, 0.01, 0.1).verdict is ConfirmationVerdict.ROLLED_BACK


def test_a_mean_of_scores_that_are_not_all_there_is_none() -> None:
    assert mean_gain([1.7, 1.6], [1.8, 1.9]) == pytest.approx(0.2)
    assert mean_gain([1.7, None], [1.8, 1.9]) is None
    assert mean_gain([1.7, 1.6], [None, 1.9]) is None
    assert mean_gain([], []) is None


def test_true_gains_pass_the_rule_of_unseen_text_and_known_text_does_not() -> None:
    alone, whole = confirmed(2.0, 0.85, 2000)
    assert alone - whole < 0.01
    alone, whole = confirmed(5.0, 0.05, 2000)
    assert (alone > 0.99, whole < 0.03) == (True, True)


@pytest.mark.parametrize(
    ("score", "incumbent", "sigma", "expected"),
    [
        (1.75, 1.8, 0.003, False),  # 2.8 %
        (1.745, 1.8, 0.003, True),  # 3.1 %
        (1.72, 1.8, 0.02, False),  # 4.4 %, but 4 sigma
        (1.67, 1.8, 0.02, True),  # 6.5 sigma
        (1.9, 1.8, 0.003, False),
    ],
)
def test_a_gain_is_hard_to_believe_beyond_six_sigma_and_three_percent(
    score: float, incumbent: float, sigma: float, expected: bool
) -> None:
    assert is_implausible(score, incumbent, sigma) is expected


def test_pure_noise_is_walked_on_but_hardly_ever_confirmed() -> None:
    chance = random.Random(5)
    runs, confirmed, keeps = 400, 0, 0
    for _ in range(runs):
        head_is_baseline, incumbent = True, fmean(chance.gauss(0, 1) for _ in range(5)) + 10
        for _ in range(60):
            score = chance.gauss(10, 1)
            if (
                decide(
                    Outcome.OK,
                    score,
                    parent_scores=[incumbent],
                    parent_is_incumbent=True,
                    added_lines=0,
                    sigma=1,
                    rule=Rule.WALK,
                    detail="",
                ).decision
                is Decision.KEEP
            ):
                incumbent, head_is_baseline, keeps = score, False, keeps + 1
        if head_is_baseline:
            continue
        pairs, verdict = CLAIM_PAIRS, None
        head = [chance.gauss(10, 1) for _ in range(AGREEING_PAIRS_LIMIT)]
        base = [chance.gauss(10, 1) for _ in range(AGREEING_PAIRS_LIMIT)]
        while verdict is None:
            verdict = judge_claim(head[:pairs], base[:pairs], sigma=1, floor=0.5).verdict
            pairs += 1
        confirmed += verdict is ConfirmationVerdict.CONFIRMED

    assert keeps / runs > 2, "the walk is meant to be free"
    assert confirmed / runs < 0.06, "a claim out of nothing must be rare"


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ([], False),
        (["ok"], True),
        (["unscorable"], True),
        (["crashed"], False),
        (["crashed", "out_of_memory"], True),
        (["timed_out", "lost"], False),
        (["lost", "lost"], False),
    ],
)
def test_a_change_that_was_discarded_once_or_failed_twice_is_not_tried_again(
    outcomes: list[str], expected: bool
) -> None:
    assert is_banned([Outcome(name) for name in outcomes]) is expected


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ([], False),
        (["crashed", "crashed"], False),
        (["crashed", "out_of_memory", "timed_out"], True),
        (["crashed", "rejected", "crashed", "rejected", "crashed"], True),
        (["crashed", "ok", "crashed", "crashed"], False),
        (["crashed", "unscorable", "crashed", "crashed"], False),
        (["crashed", "crashed", "crashed", "ok"], False),
        (["crashed", "lost", "crashed", "lost", "crashed"], True),
        (["lost", "lost", "lost"], False),
    ],
)
def test_three_failures_in_a_row_ask_for_an_incumbent_confirmation_and_neither_rejections_nor_lost_trials_count(
    outcomes: list[str], expected: bool
) -> None:
    assert needs_incumbent_confirmation([Outcome(name) for name in outcomes]) is expected


FAILED, OK = Outcome.CRASHED, Outcome.OK
QUIET = RunFacts(
    rule=Rule.WALK, outcomes=(OK,), incumbent_failed=False, trials_without_incumbent=0, machine_changed=False,
    head=None, is_asked_for=False, goal=None, experiments_left=100, decisions=(), trial_hours=0.0, claim_hours=4.0,
)  # fmt: skip
SMALL_GAIN, JUMP = Head(1.79, 1.8, 0.01), Head(1.6, 1.8, 0.01)
INCUMBENT, CLAIM = ConfirmationKind.INCUMBENT, ConfirmationKind.CLAIM
KEEP, DISCARD = Decision.KEEP, Decision.DISCARD


@pytest.mark.parametrize(
    ("facts", "due"),
    [
        ({}, None),
        ({"outcomes": [FAILED] * 3}, INCUMBENT),
        ({"incumbent_failed": True}, INCUMBENT),
        ({"trials_without_incumbent": REMEASURE_EVERY - 1}, None),
        ({"trials_without_incumbent": REMEASURE_EVERY}, INCUMBENT),
        ({"trials_without_incumbent": REMEASURE_EVERY, "outcomes": [OK, FAILED]}, None),
        ({"trials_without_incumbent": REMEASURE_EVERY, "goal": "reached"}, None),
        ({"trials_without_incumbent": REMEASURE_EVERY, "rule": Rule.GREEDY}, None),
        ({"machine_changed": True}, INCUMBENT),
        ({"machine_changed": True, "head": JUMP}, INCUMBENT),
        ({"is_asked_for": True, "goal": "reached", "decisions": [KEEP] * 9, "trial_hours": 9.0}, None),  # no head
        ({"head": SMALL_GAIN}, None),
        ({"head": SMALL_GAIN, "is_asked_for": True}, CLAIM),
        ({"head": SMALL_GAIN, "goal": "reached"}, CLAIM),
        ({"head": SMALL_GAIN, "decisions": [KEEP] * (KEEPS_BEFORE_CLAIM - 1), "trial_hours": 3.9}, None),
        ({"head": SMALL_GAIN, "decisions": [KEEP, DISCARD] * KEEPS_BEFORE_CLAIM}, CLAIM),
        ({"head": SMALL_GAIN, "trial_hours": 4.0}, CLAIM),
        ({"head": SMALL_GAIN, "trial_hours": 4.0, "experiments_left": None}, CLAIM),
        ({"head": SMALL_GAIN, "trial_hours": 4.0, "experiments_left": NEAR_THE_END}, CLAIM),
        ({"head": SMALL_GAIN, "trial_hours": 4.0, "experiments_left": NEAR_THE_END - 1}, None),
        ({"head": JUMP}, CLAIM),
        ({"head": JUMP, "rule": Rule.GREEDY}, None),
        ({"head": JUMP, "rule": Rule.GREEDY, "goal": "reached"}, CLAIM),
    ],
)
def test_a_confirmation_is_due_by_the_facts_of_the_run_alone(
    facts: dict[str, Any], due: ConfirmationKind | None
) -> None:
    found = next_confirmation(replace(QUIET, **facts))

    assert (None if found is None else found.kind) is due
