"""Advice: knobs alone, inside their ranges, repaired so that it can be run."""

from __future__ import annotations

import re

import pytest

from researcher.errors import Rejected
from researcher.proposers.advice import to_runnable_change
from researcher.source.edits import apply_edits
from researcher.source.knobs import read_knobs
from researcher.source.proposal import Edit, Proposal, ProposerName, SearchReplace, SetKnobs
from services.machine.subject import render_subject
from trainer.jobs import profile_named

PROFILE = profile_named("cpu")
SOURCE = render_subject(PROFILE)["train.py"]


def advice(*edits: Edit) -> Proposal:
    return to_runnable_change(Proposal(ProposerName.ADVISER, "said", "because", edits), SOURCE, PROFILE.context)


def test_a_move_is_titled_by_what_it_does_and_keeps_its_reason() -> None:
    proposal = advice(SetKnobs({"MATRIX_LR": 0.05, "DEPTH": 2}))

    assert (proposal.title, proposal.hypothesis) == ("MATRIX_LR 0.04 -> 0.05", "because")
    assert proposal.edits == (SetKnobs({"MATRIX_LR": 0.05}),), "what has its value already is no move"


def test_batches_that_do_not_go_together_are_made_whole() -> None:
    proposal = advice(SetKnobs({"TOTAL_BATCH_SIZE": 1024}))

    values = {name: knob.value for name, knob in read_knobs(apply_edits(SOURCE, proposal.edits)).items()}
    total, device = values["TOTAL_BATCH_SIZE"], values["DEVICE_BATCH_SIZE"]
    assert isinstance(total, int)
    assert isinstance(device, int)
    assert total % (device * PROFILE.context) == 0


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (SetKnobs({"MATRIX_LR": 99.0}), "MATRIX_LR"),
        (SetKnobs({"NO_SUCH": 1}), "NO_SUCH cannot be moved; the knobs with a range are DEPTH"),
        (SetKnobs({"SOFTCAP": 1}), "SOFTCAP cannot be moved"),
        (SetKnobs({"DEPTH": "many"}), "DEPTH"),
        (SetKnobs({"DEPTH": 2}), "DEPTH is 2 already"),
        (SearchReplace("DEPTH = 2", "DEPTH = 3"), "only knobs can be moved here"),
    ],
)
def test_what_is_no_move_of_these_knobs_is_refused_with_its_reason(edit: Edit, reason: str) -> None:
    with pytest.raises(Rejected, match=re.escape(reason)):
        advice(edit)
