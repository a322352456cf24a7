"""Chooses the edit formats of a question: those in which a model's answers become trials that run, and that fit it.

A free format is dropped only after enough tries, or if an answer has no room for it. An edit in a format that was not
offered still counts. The selection of free formats changes with the incumbent or every few experiments, so that
consecutive prompts share a prefix. A small model, and one whose answers cannot be read, is held to a change of knobs in
JSON most of the time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from researcher.journal.reader import JournalReader
from researcher.journal.records import Experiment
from researcher.source.proposal import (
    FREE_FORMATS,
    AnswerStage,
    Attempt,
    EditFormat,
    Proposal,
    ProposerName,
    formats_of,
)
from trainer.jobs import Outcome

TRIED_ENOUGH = 8
KEPT_SHARE = 0.5  # share of the best format's rate; a format below it is not offered
COUNTED_AGAIN_EVERY = 20  # experiments
COUNTED_EXPERIMENTS = 120
UNREAD_IN_A_ROW = 2  # answers that cannot be read, after which a model is held to JSON
JSON_IN_A_ROW = 4  # such questions, after which a free format is tried again


@dataclass(frozen=True)
class AskedModel:
    """The properties of a model that decide the formats of a question.

    `writes_file` is True if an answer has room for the whole train.py.
    """

    name: str
    is_small: bool = False
    writes_file: bool = True


@dataclass(frozen=True)
class Success:
    """The number of answers that tried an edit format, and the number of these that became trials that ran."""

    tried: int
    ran: int

    @property
    def rate(self) -> float:
        """The share that ran, estimated as if one more had run and one more had failed."""
        return (self.ran + 1) / (self.tried + 2)


def successes(answers: Iterable[tuple[Sequence[Attempt], Outcome | None]]) -> dict[EditFormat, Success]:
    """Count successes from the attempts and the outcome of each experiment. Infrastructure failures do not count."""
    tried: Counter[EditFormat] = Counter()
    ran: Counter[EditFormat] = Counter()
    for attempts, outcome in answers:
        for attempt in attempts:
            if attempt.failed is not None:
                tried.update(attempt.edit_formats)
            elif outcome is not None and not outcome.is_infrastructure:
                tried.update(attempt.edit_formats)
                ran.update(attempt.edit_formats if outcome is Outcome.OK else ())
    return {edit_format: Success(tried[edit_format], ran[edit_format]) for edit_format in EditFormat}


def offered(measured: Mapping[EditFormat, Success]) -> tuple[EditFormat, ...]:
    """Return the free formats that do not fail much more often than the best, at least one, in their order."""
    known = {
        edit_format: measured[edit_format]
        for edit_format in FREE_FORMATS
        if measured[edit_format].tried >= TRIED_ENOUGH
    }
    best = max((success.rate for success in known.values()), default=0.0)
    return tuple(
        edit_format
        for edit_format in FREE_FORMATS
        if edit_format not in known or known[edit_format].rate >= KEPT_SHARE * best
    )


def offered_formats(history: JournalReader, model: AskedModel, *, may_be_json: bool) -> tuple[EditFormat, ...]:
    """Return the formats of the next question to `model`: JSON alone, or free formats, for a small model only one.

    `may_be_json` is False if a change of knobs is no answer, as to most ideas of users.
    """
    asked = _asked(history, model.name)
    if may_be_json and _wants_json(asked, is_small=model.is_small):
        return (EditFormat.JSON,)
    measured = successes((attempts, item.outcome) for item, attempts in asked if item.id <= _counted_until(history))
    formats = offered(measured)
    if not model.writes_file:
        formats = tuple(each for each in formats if each is not EditFormat.FILE) or (EditFormat.SEARCH,)
    if not model.is_small:
        return formats
    small = [EditFormat.FUNCTION, EditFormat.SEARCH] if may_be_json else [*FREE_FORMATS]
    code = [each for each in formats if each in small and each is not EditFormat.SET] or [EditFormat.FUNCTION]
    return (max(code, key=lambda edit_format: measured[edit_format].rate),)


def free_questions(history: JournalReader, model: str) -> int:
    """Return the number of answers of `model` to questions about code."""
    first = [attempts[0] for _, attempts in _asked(history, model) if attempts]
    return sum(EditFormat.JSON not in attempt.edit_formats for attempt in first)


def _asked(history: JournalReader, model: str) -> list[tuple[Experiment, tuple[Attempt, ...]]]:
    """Return the experiments for which a model chose its edits, with their attempts, oldest first."""
    asked = [
        item
        for item in history.experiments()
        if item.cost is not None
        and item.cost.model == model
        and item.proposer != ProposerName.ADVISER  # an adviser has no choice of format
    ]
    return [(item, attempts_of(history.proposal(item.id), item.outcome)) for item in asked[-COUNTED_EXPERIMENTS:]]


def _counted_until(history: JournalReader) -> int:
    """Return the id of the last experiment that counts for free formats."""
    run, experiments = history.run(), history.experiments()
    last = experiments[-1].id if experiments else 0
    incumbent = run.incumbent or 0 if run else 0
    return max(incumbent, last // COUNTED_AGAIN_EVERY * COUNTED_AGAIN_EVERY)


def _wants_json(asked: Sequence[tuple[Experiment, tuple[Attempt, ...]]], *, is_small: bool) -> bool:
    """Return True if the next question is to be held to JSON. A repair says nothing about the question."""
    first = [attempts[0] for _, attempts in asked if attempts]
    in_json = [EditFormat.JSON in attempt.edit_formats for attempt in first]
    latest = len(in_json) - 1 - max((number for number, json in enumerate(in_json) if not json), default=-1)
    if latest:
        return latest < JSON_IN_A_ROW
    free = [attempt for attempt, json in zip(first, in_json, strict=True) if not json][-UNREAD_IN_A_ROW:]
    unread = len(free) == UNREAD_IN_A_ROW and all(attempt.failed is AnswerStage.PARSE for attempt in free)
    return is_small or unread


def attempts_of(proposal: Proposal | None, outcome: Outcome | None) -> tuple[Attempt, ...]:
    """Return a proposal's attempts. For an older journal, derive the last attempt from the edits."""
    if proposal is None or proposal.attempts or not proposal.edits:
        return () if proposal is None else proposal.attempts
    return (Attempt(formats_of(proposal.edits), AnswerStage.VALIDATE if outcome is Outcome.REJECTED else None),)
