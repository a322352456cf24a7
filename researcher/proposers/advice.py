"""Turns an LLM's advice into a change of knobs alone, validates the ranges, and makes the values fit together.

Servers follow an answer's schema only approximately, and no schema can express how one knob limits another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from researcher.errors import EditError, Rejected
from researcher.optimizer.constraints import repaired
from researcher.optimizer.space import values_and_ranges
from researcher.prompting.knob_json import Move
from researcher.source.edits import title_of_moves
from researcher.source.knobs import read_knobs, set_knobs
from researcher.source.proposal import Edit, KnobValue, Proposal, SetKnobs


def to_runnable_change(proposal: Proposal, source: str, context: int) -> Proposal:
    """Return the advice as a proposal that runs on `source`, titled by its moves.

    `context` is the row length in tokens. Raises Rejected with a message for the model.
    """
    values, ranges = values_and_ranges(source)
    wanted: dict[str, KnobValue] = {}
    for edit in proposal.edits:
        if not isinstance(edit, SetKnobs):
            raise Rejected("only knobs can be moved here; answer with the JSON that was asked for")
        if strange := [name for name in edit.knobs if name not in ranges]:
            raise Rejected(f"{', '.join(strange)} cannot be moved; the knobs with a range are {', '.join(ranges)}")
        wanted |= _held(source, edit)
    after = repaired(values, values | wanted, ranges, context)
    if after is None:
        raise Rejected("no batch inside the ranges fits these values; TOTAL_BATCH_SIZE holds whole device batches")
    moves = {name: value for name, value in after.items() if value != values[name]}
    if not moves:
        now = ", ".join(f"{name} is {values[name]}" for name in wanted)
        raise Rejected(f"{now} already, or the move leaves the model as it is; choose another value or another knob")
    return replace(proposal, title=title_of_moves(values, moves), edits=(SetKnobs(moves),))


def move_in(edits: Sequence[Edit]) -> set[Move]:
    """Return the change of edits that set one knob and nothing else, or an empty set for other edits."""
    match edits:
        case [SetKnobs(knobs)] if len(knobs) == 1:
            return {(name, value) for name, value in knobs.items() if not isinstance(value, tuple)}
    return set()


def _held(source: str, edit: SetKnobs) -> dict[str, KnobValue]:
    """Return the values as the source would contain them. Raises Rejected if a value is out of its range."""
    try:
        knobs = read_knobs(set_knobs(source, edit.knobs))
    except EditError as error:
        raise Rejected(str(error)) from error
    found = {name: knobs[name].value for name in edit.knobs}
    return {name: value for name, value in found.items() if not isinstance(value, tuple)}
