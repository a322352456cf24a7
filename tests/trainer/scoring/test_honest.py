"""Honest models of many shapes pass the closer look, and those that are marked so whole trials with their replica.

`scripts/bench honest` does more."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from tests.fixtures.examined import closer_looks
from tests.fixtures.trials import CAPS, STEPS, MakeSpec, Run, tiny_data
from tests.subjects.cheats import peeking
from tests.subjects.honest import HONEST_MODELS, WHOLE_TRIALS, Honest
from trainer.jobs import Outcome, files_digest

PATIENT = dataclasses.replace(STEPS, setup_s=120, scoring_s=240)  # a compiler takes its time
ROOMY = dataclasses.replace(CAPS, file_mib=1024)
DataOf = Callable[[int], Path]


@pytest.fixture(scope="module")
def data_of(ground: Path) -> DataOf:
    """A tiny data folder with a vocabulary of a size."""
    made: dict[int, Path] = {}

    def folder(vocab: int) -> Path:
        if vocab not in made:
            made[vocab] = tiny_data(ground / f"data-{vocab}", 64, vocab)
        return made[vocab]

    return folder


def _case(model: Honest) -> ParameterSet:
    marks = [] if model.quick else [pytest.mark.slow]
    return pytest.param(model, id=model.name, marks=marks)


@pytest.mark.parametrize("model", [_case(model) for model in HONEST_MODELS])
def test_an_honest_model_passes_the_closer_look(model: Honest, data_of: DataOf) -> None:
    looks = closer_looks(model, data_of(model.vocab), times=2, seed=5)

    assert [look.refusal for look in looks] == [None, None]
    assert all(look.finding is not None for look in looks)


def test_a_model_that_looks_ahead_does_not_pass_that_look(data_of: DataOf) -> None:
    cheat = Honest("looks ahead", "It is no honest model.", peeking("torch.ones_like(x)"))

    [look] = closer_looks(cheat, data_of(cheat.vocab), times=1, seed=5)

    assert look.refusal is not None
    assert "it looks ahead" in look.refusal


@pytest.mark.slow
@pytest.mark.parametrize("model", WHOLE_TRIALS, ids=lambda model: model.name)
def test_an_honest_model_is_borne_out(model: Honest, spec: MakeSpec, run: Run) -> None:
    files = {"train.py": model.train, "prepare.py": model.prepare}
    plain = spec(model.train, trial="e-1-t0-a1", score_to_beat=99.0, budget=PATIENT, caps=ROOMY)

    result = run(dataclasses.replace(plain, files=files, files_sha256=files_digest(files)))

    assert result.outcome is Outcome.OK, (result.reason, result.log)
    assert result.trust is not None
    assert result.trust.probe == "rows asked again of a fresh process"
