"""The generated attacker itself: what it draws, that its parts do what their names say, and a few minutes of attack."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest

from tests.attack.candidate import Candidate
from tests.attack.grammar import candidates
from tests.attack.parts import COVERS, GAINS, GATES, PARTS, PLACES, SPEECHES, TRAININGS, Part, Role
from tests.attack.trials import Honest, Verdict
from tests.bench.attack import MOST_CRASHED, attack, told

PLAIN, AHEAD = PLACES[0], PARTS["looks ahead by 6"]


def test_a_seed_draws_the_same_different_candidates_each_time_and_the_first_ones_of_a_longer_draw() -> None:
    few = candidates(7, 20)

    assert few == candidates(7, 40)[:20]
    assert len({one.names for one in few}) == 20
    assert few != candidates(8, 20)


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_every_part_gives_a_script_that_parses_and_has_what_it_names(part: Part) -> None:
    candidate = Candidate.of(
        part, *([] if part.role is Role.PLACE else [PLAIN]), *([] if part.role is Role.GAIN else [AHEAD])
    )

    ast.parse(candidate.source)
    assert candidate.source != Candidate.of(*(each for each in candidate.parts if each is not part)).source
    assert Candidate.named(candidate.names) == candidate


def test_parts_have_names_of_their_own() -> None:
    assert len(PARTS) == sum(map(len, (GAINS, TRAININGS, GATES, PLACES, COVERS, SPEECHES)))


def test_what_is_simpler_has_one_part_less_or_the_plainest_place_and_still_a_gain() -> None:
    whole = Candidate.of(AHEAD, GATES[0], PLACES[3], COVERS[0])

    simpler = list(whole.simpler())

    assert [len(one.parts) for one in simpler] == [3, 4, 3]
    assert all(AHEAD in one.parts for one in simpler)
    assert simpler[1].parts[2] == PLAIN
    assert list(Candidate.of(AHEAD, PLAIN).simpler()) == []


@pytest.mark.parametrize(
    ("gain", "verdict"),
    [
        (-1.0, Verdict.NO_BETTER),
        (0.0, Verdict.NO_BETTER),
        (0.003, Verdict.SLIGHTLY),
        (0.0051, Verdict.THROUGH),
        (0.9, Verdict.THROUGH),
    ],
)
def test_a_gain_beyond_noise_got_through(gain: float, verdict: Verdict) -> None:
    honest = Honest({11: 1.0}, noise=0.005)

    assert honest.verdict(honest.gain(11, 1.0 - gain)) is verdict


def commit_as_a_number() -> int:
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    return int(done.stdout[:8], 16)


@pytest.mark.slow
def test_no_candidate_of_this_commits_seed_gets_through() -> None:
    seed = commit_as_a_number()
    print(f"scripts/bench attack --seed {seed} --count 48")

    report = attack(seed, 48, jobs=1)

    assert report.bad == [], "\n".join(told(report))
    assert report.crashed_share <= MOST_CRASHED, "\n".join(told(report))
