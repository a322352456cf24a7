"""No candidate can fake its score: every cheat of tests/subjects/cheats.py, as a real trial that beats its score."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.subjects.cheats import CHEATS, HONEST, Cheat
from tests.trainer.conftest import STEPS, MakeSpec, everything_dead, tiny_data
from tests.trainer.test_trial import Run
from trainer.jobs import Kind, Outcome, TrialSpec, files_digest
from trainer.places import Places

FIRST = {"trial": "e-1-t0-a1", "kind": Kind.FIRST, "score_to_beat": 99.0}
BUDGET = dataclasses.replace(STEPS, eval_rows=64)


@pytest.fixture(scope="session")
def data(ground: Path) -> Path:
    """More rows than elsewhere: a look-ahead at few positions is to be met."""
    return tiny_data(ground / "data-for-cheats", val_rows=64)


@pytest.fixture
def honest(spec: MakeSpec, run: Run) -> float:
    """What the script that all cheats start from scores."""
    result = run(spec(HONEST, **{**FIRST, "trial": "e-0-t0-a1", "budget": BUDGET}))
    assert result.metric is not None, result
    return result.metric.value


def of(cheat: Cheat, spec: MakeSpec) -> TrialSpec:
    """Its trial."""
    plain = spec(cheat.subject, **{**FIRST, "budget": BUDGET, **cheat.fields})
    files = {**plain.files, **cheat.files}
    return dataclasses.replace(plain, files=files, files_sha256=files_digest(files))


@pytest.mark.parametrize(
    "cheat",
    [
        pytest.param(cheat, id=cheat.name, marks=() if cheat.quick else pytest.mark.slow)
        for cheat in CHEATS
        if cheat.says is not None
    ],
)
def test_a_cheat_is_refused(cheat: Cheat, spec: MakeSpec, run: Run, places: Places) -> None:
    result = run(of(cheat, spec))

    assert (result.outcome, result.metric, result.heldout) == (cheat.outcome, None, None), (result.reason, result.log)
    assert cheat.says is not None
    assert cheat.says in result.reason, result.log
    assert everything_dead(places.work)
    assert list(places.work.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("cheat", [pytest.param(cheat, id=cheat.name) for cheat in CHEATS if cheat.says is None])
def test_a_cheat_scores_what_it_is_worth(cheat: Cheat, spec: MakeSpec, run: Run, honest: float) -> None:
    result = run(of(cheat, spec))

    if cheat.worse:
        assert result.outcome in (Outcome.OK, Outcome.UNSCORABLE), result.reason
        assert result.metric is None or result.metric.value > honest - 1e-4
    else:
        assert result.outcome is Outcome.OK, (result.reason, result.log)
        assert result.metric is not None
        assert result.metric.value == honest
        assert result.trust is not None
        assert result.trust.probe == "rows asked again, also of a replica"
