"""Builds the context of a prompt from the journal, the lessons and the optimiser.

The context is deterministic for a journal, asks no LLM, and stays bounded in a run of any length. It never contains a
held-out score.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from statistics import fmean

from researcher.decision.rules import is_banned, pooled_sigma, rolled_back_keeps
from researcher.errors import Rejected
from researcher.journal.reader import JournalReader
from researcher.journal.records import Decision, Experiment
from researcher.optimizer.knob_effects import Effect, effects
from researcher.optimizer.optimizer import Optimizer
from researcher.optimizer.space import values_and_ranges
from researcher.prompting.prompt import Advice, PromptContext
from researcher.proposers.edit_formats import AskedModel, offered_formats
from researcher.proposers.escalation import without_keep
from researcher.proposers.lessons import Lessons, NearMiss
from researcher.proposers.novelty import objection
from researcher.source.knobs import read_knobs
from researcher.source.proposal import EditFormat, KnobValue, Proposal, ProposerName, ReplaceFunction
from researcher.source.validation import validate
from trainer.jobs import Clock, Outcome, Profile

HISTORY_LINES = 60
DROPPED_LINES = 20  # the oldest lines are dropped in blocks, so that consecutive prompts share a prefix
REJECTION_LINES = 5
TURN_EXPERIMENTS = 5  # experiments in a row that see the same parts of a train.py too long for the prompt
TOUCHED = 4  # keeps and near misses that select the parts


def prompt_context(
    history: JournalReader, profile: Profile, program: str, source: str, idea: str | None
) -> PromptContext:
    """Build the state of the run for one question about the incumbent's `source`."""
    recent = history.recent(HISTORY_LINES)
    number = recent[-1].number + 1 if recent else 0
    turn = number // TURN_EXPERIMENTS
    first = max(0, -(-(number - HISTORY_LINES) // DROPPED_LINES) * DROPPED_LINES)
    measured = [item for item in recent if item.number >= first and (item.was_measured or item.is_baseline)]
    rolled_back = rolled_back_keeps(history.experiments(), history.confirmations())
    own = [item for item in recent if item.proposer in (ProposerName.LLM, ProposerName.ADVISER)]
    rejected = [item for item in own if item.outcome is Outcome.REJECTED][-REJECTION_LINES:]
    return PromptContext(
        program=program,
        profile=profile_text(profile),
        source=source,
        incumbent=_incumbent_text(history, profile),
        history=tuple(_line(item, rolled_back.get(item.id)) for item in measured),
        rejections=tuple(f"{item.title}: {item.reason}" for item in rejected),
        idea=idea,
        earlier=first,
        named=_touched(history, measured, turn * TURN_EXPERIMENTS),
        turn=turn,
    )


def profile_text(profile: Profile) -> str:
    """Describe the machine and the budget, one sentence each."""
    unit = {
        Clock.WALL: "wall seconds",
        Clock.PROCESSOR: "processor seconds of one thread",
        Clock.STEPS: "optimiser steps",
    }[profile.budget.clock]
    memory = f"{profile.caps.vram_mib} MiB of GPU memory" if profile.caps.vram_mib else "no GPU"
    return (
        f"Training takes {profile.budget.amount:g} {unit} on {memory}. "
        f"Rows are {profile.context} tokens long, the vocabulary has {profile.vocab_size} tokens. "
        "More steps in the budget usually means a lower score, so what is slower must be worth it."
    )


def _touched(history: JournalReader, measured: list[Experiment], decided: int) -> tuple[str, ...]:
    """Return functions from the newest keeps, and from near misses before the experiment `decided`, newest first."""
    scores = history.scores()
    touching = [
        item
        for item in measured
        if item.decision is Decision.KEEP or (item.number < decided and _was_near(item, scores))
    ]
    proposals = [history.proposal(item.id) for item in reversed(touching[-TOUCHED:])]
    edits = [edit for proposal in proposals if proposal for edit in proposal.edits]
    return tuple(dict.fromkeys(edit.name for edit in edits if isinstance(edit, ReplaceFunction) and edit.name))


def _was_near(item: Experiment, scores: dict[int, list[float]]) -> bool:
    """Return True if the candidate scored lower than its parent."""
    beaten = scores.get(item.parent) if item.parent is not None else None
    return beaten is not None and item.score is not None and item.score < fmean(beaten)


def _incumbent_text(history: JournalReader, profile: Profile) -> str:
    run = history.run()
    scores = history.scores()
    if run is None or run.incumbent is None:
        return "Its score is being measured."
    sigma = pooled_sigma(list(scores.values()), profile.sigma_floor)
    own, baseline = scores[run.incumbent], scores[history.numbered(0).id]
    return (
        f"It scores val_bpb {fmean(own):.6f}. The script the run began with scores {fmean(baseline):.6f}. "
        f"The same code scatters by {sigma:.6f} from seed to seed."
    )


def _line(item: Experiment, rolled_back: str | None) -> str:
    if rolled_back is not None:
        return f"{item.number} rolled back: {item.title}: {rolled_back}"
    return f"{item.number} {item.decision or item.state}: {item.title}: {item.reason or ''}"


PLATEAU_PROMPT = 8  # experiments in a row without a keep
ADVISED_HISTORY = 20
ADVISED_BLOCK = 10
BEST = 5
DIFF_LINES = 40
_ASSIGNED = re.compile(r"([A-Z][A-Z0-9_]*)\b[^=]*=")


class Briefing:
    """Builds prompt contexts. `program` returns the user's goal and rules."""

    def __init__(self, profile: Profile, program: Callable[[], str], optimizer: Optimizer) -> None:
        self._profile = profile
        self._program = program
        self._optimizer = optimizer
        self.lessons = Lessons()

    def context(
        self,
        history: JournalReader,
        incumbent: str,
        *,
        model: AskedModel,
        proposer_name: str = ProposerName.LLM,
        idea: str | None = None,
    ) -> PromptContext:
        """Build the context of a question to `model`, for a turn of the proposer `proposer_name`.

        `idea` is a user's wish.
        """
        context = prompt_context(history, self._profile, self._program(), incumbent, idea)
        lines = self._effect_lines(history)
        advises = proposer_name == ProposerName.ADVISER
        has_ranges = bool(values_and_ranges(incumbent)[1])
        edit_formats = offered_formats(history, model, may_be_json=idea is None and has_ranges)
        if advises or edit_formats == (EditFormat.JSON,):
            return replace(
                context,
                history=context.history[_first_advised(len(context.history)) :],
                memory=lines,
                edit_formats=(EditFormat.JSON,),
                advice=self._advice(history, incumbent, suggests=advises),
            )
        fruitless = without_keep(history.experiments())
        return replace(
            context,
            edit_formats=edit_formats,
            memory=(*lines, *self._lesson_lines(history, context.earlier), *_diff_lines(history, incumbent)),
            fruitless=fruitless if fruitless >= PLATEAU_PROMPT else None,
        )

    def near_misses(self, history: JournalReader) -> list[NearMiss]:
        """Return edits that were not kept and were no worse than the noise, the best first."""
        return self.lessons.near_misses(history.scores(), self._sigma(history))

    def _sigma(self, history: JournalReader) -> float:
        return pooled_sigma(list(history.scores().values()), self._profile.sigma_floor)

    def _advice(self, history: JournalReader, incumbent: str, *, suggests: bool) -> Advice:
        """Return the knobs. A model that sees the optimiser's suggestion copies it, so only an adviser does."""
        best = (
            f"{score:.6f} with {_set(moves) or 'train.py as it stands'}"
            for score, moves in self._optimizer.best(incumbent, BEST)
        )
        suggestion = self._suggestion(history, incumbent) if suggests else None
        return Advice(_knob_lines(incumbent), tuple(best), suggestion)

    def _suggestion(self, history: JournalReader, incumbent: str) -> str:
        """Describe the change that the optimiser would make without random exploration."""
        known = objection(history, ProposerName.OPTIMIZER)

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


def _first_advised(lines: int) -> int:
    """Return the number of the first history line, which changes only every few experiments: prompts share a prefix."""
    return max(0, -(-(lines - ADVISED_HISTORY) // ADVISED_BLOCK) * ADVISED_BLOCK)


def _unless_banned(item: Experiment) -> str:
    return "" if item.outcome is not None and is_banned([item.outcome]) else " (a failure: refused after the second)"


def _knob_lines(source: str) -> tuple[str, ...]:
    """Return the lines of knobs with a range, including the comments that give the ranges."""
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
    """Return the changes of the run so far as a diff without context lines."""
    first = history.source(history.numbered(0).id)
    lines = [
        line
        for line in difflib.unified_diff(first.splitlines(), incumbent.splitlines(), n=0, lineterm="")
        if line[:2] not in ("--", "++", "@@") and line[1:].strip()
    ]
    more = [f"... and {len(lines) - DIFF_LINES} more lines"] if len(lines) > DIFF_LINES else []
    return _section("What the keeps so far changed in the script the run began with", lines[:DIFF_LINES] + more)
