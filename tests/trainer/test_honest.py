"""Honest models of many shapes pass the closer look and their replica: whole trials.

`scripts/bench honest` does more."""

from __future__ import annotations

import dataclasses

import pytest

from tests.subjects.honest import HONEST_MODELS, Honest
from tests.trainer.conftest import CAPS, STEPS, MakeSpec, Run
from trainer.jobs import Outcome, files_digest

PATIENT = dataclasses.replace(STEPS, setup_s=120, scoring_s=240)  # a compiler takes its time
ROOMY = dataclasses.replace(CAPS, file_mib=1024)


@pytest.mark.slow
@pytest.mark.parametrize("model", HONEST_MODELS, ids=lambda model: model.name)
def test_an_honest_model_is_borne_out(model: Honest, spec: MakeSpec, run: Run) -> None:
    files = {"train.py": model.train, "prepare.py": model.prepare}
    plain = spec(model.train, trial="e-1-t0-a1", score_to_beat=99.0, budget=PATIENT, caps=ROOMY)

    result = run(dataclasses.replace(plain, files=files, files_sha256=files_digest(files)))

    assert result.outcome is Outcome.OK, (result.reason, result.log)
    assert result.trust is not None
    assert result.trust.probe == "rows asked again of a fresh process"
