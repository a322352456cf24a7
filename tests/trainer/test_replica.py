"""A score is borne out by a fresh process that knows the script and the weights alone. Whole trials, subjects named for
their fault."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.trainer.conftest import MakeSpec, everything_dead
from trainer.jobs import Outcome, TrialResult, TrialSpec
from trainer.places import Places
from trainer.replica import replica_fault
from trainer.verdict import Stop

Run = Callable[[TrialSpec], TrialResult]
NOT_ITS_OWN = "not made of the script and the model's state_dict"
FIRST = {"trial": "e-1-t0-a1", "score_to_beat": 99.0}


SLOW = ("known_table", "keeps_weights_beside", "saves_other_weights", "builds_its_model_late", "seals_its_weights")
FAULTS = {
    "remembers_prefixes": "a fresh process with its weights differs: its logits",
    "known_table": "must be a torch module that a module-level name holds",
    "keeps_weights_beside": NOT_ITS_OWN,
    "saves_other_weights": NOT_ITS_OWN,
    "seals_its_weights": "it meddled with the file of its weights",
    "builds_its_model_late": "has no torch module named model",
}


@pytest.mark.parametrize(
    "subject", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in FAULTS]
)
def test_score_that_a_replica_does_not_bear_out_does_not_count(
    subject: str, spec: MakeSpec, run: Run, places: Places
) -> None:
    result = run(spec(subject, **FIRST))

    assert result.outcome is Outcome.UNSCORABLE, result.reason
    assert FAULTS[subject] in result.reason
    assert (result.metric, result.heldout) == (None, None)
    assert everything_dead(places.work)
    assert list(places.work.iterdir()) == []


def test_a_plain_look_ahead_is_found_in_the_process_that_was_scored(spec: MakeSpec, run: Run) -> None:
    result = run(spec("looks_ahead", **FIRST))

    assert result.outcome is Outcome.UNSCORABLE
    assert result.reason.startswith("its logits at position")
    assert result.reason.endswith("it looks ahead")


@pytest.mark.slow
@pytest.mark.parametrize("subject", ["averages_its_weights", "upstream_shape"])
def test_honest_script_is_borne_out(subject: str, spec: MakeSpec, run: Run) -> None:
    result = run(spec(subject, **FIRST))

    assert result.outcome is Outcome.OK, (result.reason, result.log)
    assert result.trust is not None
    assert result.trust.probe == "rows asked again, also of a replica"


@pytest.mark.parametrize("outcome", [Outcome.PREEMPTED, Outcome.LOST])
def test_what_the_machine_did_to_a_replica_is_not_the_candidates_fault(outcome: Outcome) -> None:
    stop = Stop(outcome, "the worker was told to stop")

    assert replica_fault(None, stop, None, []) == stop
