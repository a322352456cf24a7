"""Validates a proposal without running it: the result is a candidate, or a rejection with a reason.

An accepted proposal parses and compiles, changes the program, is new, still calls `prepare`, defines all names that it
uses, and does nothing new that no experiment needs. Only a trial shows whether the candidate builds and how good it is.
"""

from __future__ import annotations

import difflib
import hashlib
import re
import warnings
from collections.abc import Callable
from functools import lru_cache

from researcher.errors import EditError, Rejected
from researcher.source.edits import apply_edits
from researcher.source.fingerprint import SourceFacts, pieces, read_facts
from researcher.source.information_limit import cap_of, refuse_carried, refuse_growth
from researcher.source.plain_text import refuse_ambiguous
from researcher.source.policy import Violation, violations
from researcher.source.proposal import Candidate, Proposal, ProposerName, SetKnobs
from researcher.source.syntax import parse, syntax_fault
from researcher.source.undefined_names import Undefined, undefined_names
from trainer.jobs import TRAIN_LIMIT_BYTES

MOST_FAULTS = 3  # in one message; more would confuse a small model
_MEANS_OTHERS = re.compile(r"\b(?:__future__|global)\b")  # words with which one statement can make another invalid


def validate(proposal: Proposal, incumbent_source: str, tried: Callable[[Candidate], str | None]) -> Candidate:
    """Return the candidate that `proposal` makes of the incumbent.

    `tried` returns an objection from earlier experiments ("the same code was tried before (experiment 12: discard,
    1.812)"), or None. Raises only Rejected, with a reason that the next prompt can show.
    """
    try:
        source = apply_edits(incumbent_source, proposal.edits)
        _refuse_oversize(source)
        if proposal.proposer != ProposerName.HUMAN:
            refuse_growth(source, incumbent_source)
        facts, incumbent = read_facts(source), read_facts(incumbent_source)
        refuse_carried(source, incumbent_source, cap_of(proposal.proposer), "the script it is made from")
    except EditError as error:
        raise Rejected(str(error)) from error
    refuse_ambiguous(source, incumbent_source)
    if source == incumbent_source:
        raise Rejected(_no_change_text(proposal))
    _refuse_no_effect(facts, incumbent)
    lost = [entry_point for entry_point in incumbent.entry_points if entry_point not in facts.entry_points]
    if lost:
        raise Rejected(f"train.py must keep {', '.join(lost)}")
    change = _change(incumbent.statements, facts.statements)
    candidate = Candidate(source, facts.fingerprint, change, facts.lines - incumbent.lines)
    refuse_tried(candidate, tried)
    _compile(source)
    if facts.numberless != incumbent.numberless:  # a change of numbers alone cannot add names
        _refuse_undefined(source, incumbent_source)
        if proposal.proposer != ProposerName.HUMAN:
            _refuse_denied(source, incumbent_source)
    return candidate


def refuse_tried(candidate: Candidate, tried: Callable[[Candidate], str | None]) -> None:
    """Raise Rejected if `tried` has an objection to the candidate."""
    if earlier := tried(candidate):
        raise Rejected(f"{earlier}; propose something else")


def fingerprint(source: str) -> str:
    """Return the hash of the normalised syntax tree; see `researcher.source.fingerprint`."""
    return read_facts(source).fingerprint


def _change(old: tuple[str, ...], new: tuple[str, ...]) -> str:
    """Return the hash of the removed and the added statements, wherever they are."""
    changed = [line for line in difflib.unified_diff(old, new, n=0, lineterm="") if not line.startswith("@@")]
    return hashlib.sha256("\n".join(changed).encode()).hexdigest()


def _refuse_oversize(source: str) -> None:
    try:
        size = len(source.encode())
    except UnicodeEncodeError as error:
        raise Rejected(f"train.py is not text: {error.reason} at character {error.start}") from error
    if size > TRAIN_LIMIT_BYTES:
        raise Rejected(f"train.py would have {size} bytes; the limit is {TRAIN_LIMIT_BYTES}")


def _compile(source: str) -> None:
    """Refuse faults that only the compiler finds: `return` outside a function, a name both local and global.

    Compile statement by statement, because few of a candidate's are new. Compile the whole source if one statement may
    affect others, and to find the line of a fault.
    """
    if _MEANS_OTHERS.search(source) or not all(map(_compiles, pieces(source))):
        _compile_whole(source)


@lru_cache(maxsize=1024)
def _compiles(piece: str) -> bool:
    try:
        _compile_whole(piece)
    except Rejected:
        return False
    return True


def _compile_whole(source: str) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(source, "train.py", "exec", dont_inherit=True)
    except SyntaxError as error:
        raise Rejected(f"train.py does not compile: {syntax_fault(error, source)}") from error
    except (ValueError, OverflowError, RecursionError, MemoryError) as error:
        raise Rejected(f"train.py does not compile: {error or type(error).__name__}") from error


def _refuse_undefined(source: str, incumbent_source: str) -> None:
    known = {undefined.name for undefined in _inspect(incumbent_source)[0]}
    if new := [undefined for undefined in _inspect(source)[0] if undefined.name not in known]:
        raise Rejected(f"train.py would crash: {'; '.join(undefined.words for undefined in new[:MOST_FAULTS])}")


def _refuse_denied(source: str, incumbent_source: str) -> None:
    """Refuse new forbidden actions. Those of the incumbent are accepted."""
    known = {violation.what for violation in _inspect(incumbent_source)[1]}
    new = [violation for violation in _inspect(source)[1] if violation.what not in known]
    of_task = not read_facts(incumbent_source).entry_points
    messages = [text for each in new if (text := each.message_of_task if of_task else each.message) is not None]
    if messages:
        raise Rejected(f"train.py may not do this: {'; '.join(messages[:MOST_FAULTS])}")


@lru_cache(maxsize=8)
def _inspect(source: str) -> tuple[tuple[Undefined, ...], tuple[Violation, ...]]:
    tree = parse(source)
    return undefined_names(tree), violations(tree)


def _no_change_text(proposal: Proposal) -> str:
    moves = [move for edit in proposal.edits if isinstance(edit, SetKnobs) for move in edit.knobs.items()]
    what = ", ".join(f"{name} = {value}" for name, value in moves) or "all of it"
    return f"the edits change nothing: {what} stands in train.py already; choose other values or lines"


def _refuse_no_effect(facts: SourceFacts, incumbent: SourceFacts) -> None:
    if facts.fingerprint == incumbent.fingerprint:
        raise Rejected(
            "the edits change only comments, docstrings or layout, local names or how a number is written;"
            " change what the program does"
        )
    if facts.seedless == incumbent.seedless:
        raise Rejected("the edits change only the random seed; the trainer sets the seed, so this is no experiment")
