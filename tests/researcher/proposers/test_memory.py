"""A candidate that is nowhere smaller than two that ran out of memory is refused; whatever else differs is tried."""

from pathlib import Path

import pytest

import trainer
from researcher.errors import Rejected
from researcher.journal.records import Goal
from researcher.loop.context import RunContext
from researcher.proposers.novelty import objection, too_large
from researcher.source.knobs import set_knobs
from researcher.source.proposal import KnobValue, Proposal, ProposerName, SetKnobs
from researcher.source.validation import validate
from tests.fixtures.loop_in_process import run_listed
from tests.fixtures.scripted_run import SUBJECT, ScriptedRun

DEFAULT = (Path(trainer.__file__).parent / "subject" / "train.py").read_text()
OUT = [(12, {"DEPTH": 12, "DEVICE_BATCH_SIZE": 128}), (15, {"DEPTH": 16, "DEVICE_BATCH_SIZE": 128, "MATRIX_LR": 0.02})]


def judged(
    knobs: dict[str, KnobValue], out: list[tuple[int, dict[str, KnobValue]]], incumbent: str = DEFAULT
) -> str | None:
    return too_large(set_knobs(DEFAULT, knobs), incumbent, [(number, set_knobs(DEFAULT, each)) for number, each in out])


def test_what_is_nowhere_smaller_than_two_that_ran_out_is_refused_with_their_sizes() -> None:
    said = (
        "experiments 12 and 15 ran out of memory (12 with DEPTH 12, ASPECT_RATIO 64, DEVICE_BATCH_SIZE 128), and this"
    )

    assert (judged({"DEPTH": 20, "DEVICE_BATCH_SIZE": 128}, OUT) or "")[: len(said)] == said


@pytest.mark.parametrize(
    ("knobs", "refused"),
    [
        ({"DEPTH": 16}, True),
        ({"DEPTH": 20, "DEVICE_BATCH_SIZE": 256, "TOTAL_BATCH_SIZE": 2**20}, True),
        ({"DEPTH": 20, "ASPECT_RATIO": 128, "EMBEDDING_LR": 0.1, "WARMUP_RATIO": 0.1}, True),
        ({"DEPTH": 15}, False),
        ({"DEPTH": 20, "DEVICE_BATCH_SIZE": 64}, False),
        ({"DEPTH": 20, "ASPECT_RATIO": 63}, False),
        ({"DEPTH": 20, "HEAD_DIM": 64}, False),
        ({"DEPTH": 20, "WINDOW_PATTERN": "L"}, False),
        ({"DEPTH": 20, "GATE_CHANNELS": 16}, False),
    ],
)
def test_every_size_counts_and_knobs_that_take_no_memory_do_not(knobs: dict[str, KnobValue], refused: bool) -> None:
    assert (judged(knobs, OUT) is not None) is refused


def test_one_that_ran_out_is_not_enough() -> None:
    assert judged({"DEPTH": 20}, OUT[:1]) is None


def test_other_code_is_tried() -> None:
    shorter = DEFAULT.replace("4 * width", "2 * width")
    sources = [(number, set_knobs(DEFAULT, knobs)) for number, knobs in OUT]

    assert too_large(set_knobs(shorter, {"DEPTH": 20}), DEFAULT, sources) is None


def test_what_the_incumbent_is_as_large_as_did_not_fail_for_its_size() -> None:
    assert judged({"DEPTH": 20}, OUT, incumbent=set_knobs(DEFAULT, {"DEPTH": 16})) is None


def test_a_proposer_learns_of_it_in_the_run_and_a_user_may_try(scripted_run: ScriptedRun) -> None:
    scripted_run.start_trainer()
    ran_out = [SUBJECT.replace("WIDTH = 64", f"WIDTH = {width}") + "# fate: out_of_memory\n" for width in (128, 192)]
    said: list[str | None] = []

    def ask(run_context: RunContext) -> None:
        said.extend(
            refusal_of(run_context, width, by)
            for width, by in ((256, ProposerName.OPTIMIZER), (256, ProposerName.HUMAN))
        )

    run_listed(scripted_run, [*ran_out, ask], goal=Goal())

    assert said == ["experiments 1 and 2 ran out of memory (1 with WIDTH 128), and this is nowhere smaller", None]


def refusal_of(run_context: RunContext, width: int, by: ProposerName) -> str | None:
    """What is said against so wide a subject as the next candidate."""
    proposal = Proposal(by, "wider", "", (SetKnobs({"WIDTH": width}),))
    try:
        validate(proposal, SUBJECT, objection(run_context.journal, by))
    except Rejected as error:
        return str(error).removesuffix("; propose something else")
    return None
