"""What an LLM is told for its turn, put together from the journal, the lessons and the optimiser.

All of it is the same for the same journal, asks no LLM, and is bounded however long the run.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import replace

from researcher.decision.rules import is_banned, pooled_sigma
from researcher.errors import Rejected
from researcher.journal.reader import JournalReader
from researcher.journal.records import Experiment
from researcher.optimizer.knob_effects import Effect, effects
from researcher.optimizer.optimizer import Optimizer
from researcher.prompting.prompt import Advice, PromptContext
from researcher.proposers.digest import prompt_context
from researcher.proposers.edit_formats import offered_lanes
from researcher.proposers.escalation import without_keep
from researcher.proposers.lessons import Lessons, NearMiss
from researcher.proposers.novelty import objection
from researcher.source.knobs import read_knobs
from researcher.source.proposal import KnobValue, Proposal, Proposer
from researcher.source.validation import validate
from trainer.jobs import Profile

PLATEAU = 8  # experiments in a row without a keep
ADVISED_HISTORY = 20
BEST = 5
DIFF_LINES = 40
_ASSIGNED = re.compile(r"([A-Z][A-Z0-9_]*)\b[^=]*=")


class Briefing:
    """`program` gives the person's goal and rules."""

    def __init__(self, profile: Profile, program: Callable[[], str], optimizer: Optimizer) -> None:
        self._profile = profile
        self._program = program
        self._optimizer = optimizer
        self.lessons = Lessons()

    def context(
        self, history: JournalReader, incumbent: str, *, model: str, whose: str = Proposer.LLM, idea: str | None = None
    ) -> PromptContext:
        """The run as `model` is told of it in the turn of `whose`; `idea` is a user's wish."""
        told = prompt_context(history, self._profile, self._program(), incumbent, idea)
        lines = self._effect_lines(history)
        if whose == Proposer.ADVISER:
            return replace(
                told, history=told.history[-ADVISED_HISTORY:], memory=lines, advice=self._advice(history, incumbent)
            )
        fruitless = without_keep(history.experiments())
        return replace(
            told,
            lanes=offered_lanes(history, model),
            memory=(*lines, *self._lesson_lines(history, told.earlier), *_diff_lines(history, incumbent)),
            fruitless=fruitless if fruitless >= PLATEAU else None,
        )

    def near_misses(self, history: JournalReader) -> list[NearMiss]:
        """Edits that were not kept, and no worse than noise; the best first."""
        return self.lessons.near_misses(history.scores(), self._sigma(history))

    def _sigma(self, history: JournalReader) -> float:
        return pooled_sigma(list(history.scores().values()), self._profile.sigma_floor)

    def _advice(self, history: JournalReader, incumbent: str) -> Advice:
        best = (
            f"{score:.6f} with {_set(moves) or 'train.py as it stands'}"
            for score, moves in self._optimizer.best(incumbent, BEST)
        )
        return Advice(_knob_lines(incumbent), tuple(best), self._suggestion(history, incumbent))

    def _suggestion(self, history: JournalReader, incumbent: str) -> str:
        """What the optimiser would do where it does not leave it to chance, in words."""
        known = objection(history, Proposer.OPTIMIZER)

        def title(proposal: Proposal) -> str:
            validate(proposal, incumbent, known)
            return proposal.title

        try:
            return self._optimizer.propose(incumbent, title, may_explore=False)
        except Rejected as error:
            return f"nothing: {error}"

    def _effect_lines(self, history: JournalReader) -> tuple[str, ...]:
        known = effects(self._optimizer.moves(), self._sigma(history))
        return _section("What moving a knob did to the score, and how sure that is", [*map(_effect, known)])

    def _lesson_lines(self, history: JournalReader, earlier: int) -> tuple[str, ...]:
        dead = self.lessons.dead_ends(history.scores(), self._sigma(history), earlier)
        return (
            *_section(
                "Not kept, but no worse than noise: one of them with another change may help",
                [
                    f"{miss.experiment.number}: {miss.experiment.title} ({-miss.gain:+.6f})"
                    for miss in self.near_misses(history)
                ],
            ),
            *_section(
                "What was tried, by kind",
                [f"{kind}: {each.tried} tried, {each.kept} kept" for kind, each in self.lessons.categories().items()],
            ),
            *_section(
                "Older dead ends: the same edits are refused, on other code too",
                [f"{item.number}: {item.title}: {item.reason or ''}{_unless_banned(item)}" for item in dead],
            ),
        )


def _unless_banned(item: Experiment) -> str:
    return "" if item.outcome is not None and is_banned([item.outcome]) else " (a failure: refused after the second)"


def _knob_lines(source: str) -> tuple[str, ...]:
    """As they stand in the source, with the comments that give their ranges."""
    ranged = {name for name, knob in read_knobs(source).items() if knob.range is not None}
    found = ((_ASSIGNED.match(line), line) for line in source.splitlines())
    return tuple(line for name, line in found if name and name[1] in ranged)


def _section(heading: str, lines: list[str]) -> tuple[str, ...]:
    return (f"## {heading}", *lines) if lines else ()


def _effect(effect: Effect) -> str:
    failed = f", {effect.failed} failed" if effect.failed else ""
    if effect.mean is None or effect.sd is None:
        return f"{effect.knob} {effect.direction}: no score{failed}"
    return f"{effect.knob} {effect.direction}: {effect.mean:+.5f} ± {effect.sd:.5f}, tried {effect.measured}{failed}"


def _set(moves: Mapping[str, KnobValue]) -> str:
    return ", ".join(f"{name} {value}" for name, value in moves.items())


def _diff_lines(history: JournalReader, incumbent: str) -> tuple[str, ...]:
    """What the run changed so far, as a diff without context."""
    first = history.source(history.numbered(0).id)
    lines = [
        line
        for line in difflib.unified_diff(first.splitlines(), incumbent.splitlines(), n=0, lineterm="")
        if line[:2] not in ("--", "++", "@@") and line[1:].strip()
    ]
    more = [f"... and {len(lines) - DIFF_LINES} more lines"] if len(lines) > DIFF_LINES else []
    return _section("What the keeps so far changed in the script the run began with", lines[:DIFF_LINES] + more)
