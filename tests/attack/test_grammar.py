"""The generated attacker itself: what it draws, that its parts do what their names say, and a few minutes of attack."""

from __future__ import annotations

import ast
import dataclasses
import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import ROOT
from tests.attack import trials
from tests.attack.candidate import Candidate
from tests.attack.grammar import candidates
from tests.attack.parts import COVERS, GAINS, GATES, PARTS, PLACES, SPEECHES, TRAININGS, Part, Role
from tests.attack.trials import SEEDS, Honest, Tried, Verdict, honest_scores, measured, tried
from tests.bench.attack import MOST_CRASHED, attack, told
from trainer.trial import run

COUNT, MINUTES = 32, 4.0  # for CI; scripts/bench attack tries hundreds
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


@pytest.mark.slow
def test_a_gain_in_seconds_that_only_a_busier_machine_explains_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "CLOCKED", dataclasses.replace(trials.CLOCKED, amount=3.0))
    monkeypatch.setattr(trials, "REPEATS", 1)
    measured_while_busy = Honest(dict.fromkeys(SEEDS, 9.0), noise=0.5)

    found = tried(Candidate.of(PARTS["trains 2.5 s before the first batch"]), tmp_path, measured_while_busy)

    assert found.verdict is not Verdict.THROUGH
    assert found.gain is not None


def test_what_was_tried_is_not_tried_again_and_what_got_through_is_told_with_its_program(tmp_path: Path) -> None:
    first, second = candidates(3, 2)
    known = [
        Tried(first.names, Verdict.REFUSED, None, "it looks ahead"),
        Tried(second.names, Verdict.THROUGH, 0.5, "ok"),
    ]
    (tmp_path / "tried-3.jsonl").write_text("".join(f"{json.dumps(dataclasses.asdict(one))}\n" for one in known))

    report = attack(3, 2, minutes=0, folder=tmp_path)

    assert list(report.tried) == known
    assert report.bad == known[1:]
    assert second.source in list(told(report))
    assert list(told(report))[-1] == "seed 3: 2 candidates, 1 got through, 0% crashed"


@pytest.fixture
def ground() -> Iterator[Path]:
    """A folder with a short path: that of a unix socket has 107 characters at most."""
    with tempfile.TemporaryDirectory(prefix="overnight-test-", dir="/var/tmp") as name:
        yield Path(name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("parts", "asked", "verdict"),
    [
        ((AHEAD, PLAIN), True, Verdict.REFUSED),
        ((AHEAD, PLAIN), False, Verdict.THROUGH),
        ((PLAIN, COVERS[0]), True, Verdict.NO_BETTER),
    ],
    ids=["a cheat that is asked", "a cheat that nobody asks", "no cheat"],
)
def test_a_cheat_gets_through_where_nobody_asks(
    parts: tuple[Part, ...], asked: bool, verdict: Verdict, ground: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not asked:
        monkeypatch.setattr(run, "rows_to_recheck", lambda spec, bpb: None)
    scores = [(seed, measured(ground / f"honest-{seed}", seed, clocked=False)) for seed in SEEDS]

    found = tried(Candidate.of(*parts), ground, honest_scores(scores, clocked=False))

    assert found.verdict is verdict, found.words


def commit_as_a_number() -> int:
    root = ROOT
    done = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    return int(done.stdout[:8], 16)


@pytest.mark.slow
def test_no_candidate_of_this_commits_seed_gets_through() -> None:
    seed = commit_as_a_number()
    print(f"scripts/bench attack --seed {seed} --count {COUNT}")

    report = attack(seed, COUNT, minutes=MINUTES, jobs=1)

    assert report.tried
    assert report.bad == [], "\n".join(told(report))
    assert report.crashed_share <= MOST_CRASHED, "\n".join(told(report))
