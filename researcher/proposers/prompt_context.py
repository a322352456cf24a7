"""Builds the context of a prompt from the journal, the lessons and the optimiser.

The context is deterministic for a journal, asks no LLM, and stays bounded in a run of any length. It never contains a
held-out score.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean

from researcher.decision.rules import is_banned, pooled_sigma, rolled_back_keeps
from researcher.errors import EditError, Rejected
from researcher.journal.reader import JournalReader
from researcher.journal.records import Decision, Experiment
from researcher.optimizer.knob_effects import Effect, effects
from researcher.optimizer.optimizer import Optimizer
from researcher.prompting.knob_json import Move, other_values, schema_of
from researcher.prompting.prompt import Advice, PromptContext
from researcher.prompting.source_outline import short_parts
from researcher.proposers.advice import move_in
from researcher.proposers.edit_formats import AskedModel, free_questions, offered_formats
from researcher.proposers.escalation import without_keep
from researcher.proposers.lessons import Lessons, NearMiss
from researcher.proposers.novelty import objection
from researcher.source.knobs import read_knobs
from researcher.source.proposal import EditFormat, Proposal, ProposerName, ReplaceFunction
from researcher.source.validation import validate
from trainer.jobs import Clock, Metric, Outcome, Profile

HISTORY_LINES = 60
DROPPED_LINES = 20  # the oldest lines are dropped in blocks, so that consecutive prompts share a prefix
REJECTION_LINES = 5
TURN_EXPERIMENTS = 5  # experiments in a row that see the same parts of a train.py too long for the prompt
TOUCHED = 4  # keeps and near misses that select the parts


def prompt_context(
    history: JournalReader, profile: Profile, program: str, source: str, idea: str | None, *, is_brief: bool = False
) -> PromptContext:
    """Build the state of the run for one question about the incumbent's `source`.

    With `is_brief` each line of the history holds a change and its effect on the score, without sentences.
    """
    recent = history.recent(HISTORY_LINES)
    number = recent[-1].number + 1 if recent else 0
    turn = number // TURN_EXPERIMENTS
    first = max(0, -(-(number - HISTORY_LINES) // DROPPED_LINES) * DROPPED_LINES)
    measured = [item for item in recent if item.number >= first and (item.was_measured or item.is_baseline)]
    rolled_back = rolled_back_keeps(history.experiments(), history.confirmations())
    own = [item for item in recent if item.proposer in (ProposerName.LLM, ProposerName.ADVISER)]
    rejected = [item for item in own if item.outcome is Outcome.REJECTED][-REJECTION_LINES:]
    scores = history.scores() if is_brief else {}
    lines = (
        _brief_line(item, scores, profile.metric, is_rolled_back=item.id in rolled_back)
        if is_brief
        else _line(item, rolled_back.get(item.id))
        for item in measured
    )
    return PromptContext(
        program=program,
        profile=profile_text(profile),
        metric=profile.metric,
        task=profile.task,
        source=source,
        incumbent=_incumbent_text(history, profile),
        history=tuple(lines),
        rejections=tuple(f"{item.title}: {item.reason}" for item in rejected),
        idea=idea,
        earlier=first,
        named=_touched(history, measured, turn * TURN_EXPERIMENTS),
        turn=turn,
        closed=frozenset().union(*(_move(history, item) for item in rejected)),
    )


def _move(history: JournalReader, item: Experiment) -> set[Move]:
    proposal = history.proposal(item.id)
    return set() if proposal is None else move_in(proposal.edits)


def profile_text(profile: Profile) -> str:
    """Describe the machine and the budget, one sentence each."""
    unit = {
        Clock.WALL: "wall seconds",
        Clock.PROCESSOR: "processor seconds of one thread",
        Clock.STEPS: "optimiser steps",
    }[profile.budget.clock]
    memory = f"{profile.caps.vram_mib} MiB of GPU memory" if profile.caps.vram_mib else "no GPU"
    if profile.task is not None:
        command = " ".join(profile.task.command)
        named = f"train.py is {profile.task.edit} there. " if profile.task.edit != "train.py" else ""
        return f"`{command}` takes at most {profile.budget.amount:g} {unit}, on {memory}. {named}".rstrip()
    return (
        f"Training takes {profile.budget.amount:g} {unit} on {memory}. "
        f"Rows are {profile.context} tokens long, the vocabulary has {profile.vocab_size} tokens. "
        "More steps in the budget usually means a better score, so what is slower must be worth it."
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
    metric = profile.metric
    own, baseline = scores[run.incumbent], scores[history.numbered(0).id]
    return (
        f"It scores {metric.name} {metric.text(fmean(own))}. "
        f"The script the run began with scores {metric.text(fmean(baseline))}. "
        f"The same code scatters by {sigma:.6f} from seed to seed."
    )


def _line(item: Experiment, rolled_back: str | None) -> str:
    if rolled_back is not None:
        return f"{item.number} rolled back: {item.title}: {rolled_back}"
    return f"{item.number} {item.decision or item.state}: {item.title}: {item.reason or ''}"


def _brief_line(item: Experiment, scores: dict[int, list[float]], metric: Metric, *, is_rolled_back: bool) -> str:
    before = scores.get(item.parent) if item.parent is not None else None
    if item.score is None or before is None:
        end = "" if item.outcome in (None, Outcome.OK) else f": {item.outcome.text}"
        return f"{item.number} {item.title}{end}"
    decided = "rolled back" if is_rolled_back else item.decision or item.state
    return f"{item.number} {item.title}: {metric.change(item.score - fmean(before)):+.5f}, {decided}"


PLATEAU_PROMPT = 8  # experiments in a row without a keep
ADVISED_HISTORY = 20
ADVISED_BLOCK = 10
DIFF_LINES = 40
PART_TOKENS = 1500  # of the longest function that a small model is asked about
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
        advises = proposer_name == ProposerName.ADVISER
        closed = self._closed(incumbent)
        has_moves = schema_of(incumbent, one_knob=True, closed=closed) is not None
        edit_formats = offered_formats(history, model, may_be_json=idea is None and has_moves)
        is_brief = advises or edit_formats == (EditFormat.JSON,)
        context = prompt_context(history, self._profile, self._program(), incumbent, idea, is_brief=is_brief)
        context = replace(context, proposer_name=proposer_name, one_knob=model.is_small, closed=context.closed | closed)
        if is_brief:
            return replace(
                context,
                history=context.history[_first_advised(len(context.history)) :],
                edit_formats=(EditFormat.JSON,),
                advice=self._advice(history, incumbent, suggests=advises and not model.is_small),
            )
        fruitless = without_keep(history.experiments())
        context = replace(
            context,
            edit_formats=edit_formats,
            memory=(
                *self._effect_lines(history),
                *self._lesson_lines(history, context.earlier),
                *_diff_lines(history, incumbent),
            ),
            fruitless=fruitless if fruitless >= PLATEAU_PROMPT else None,
        )
        about_a_part = model.is_small and idea is None and EditFormat.FILE not in edit_formats
        return _about_a_part(context, free_questions(history, model.name)) if about_a_part else context

    def _closed(self, incumbent: str) -> frozenset[Move]:
        """Return the changes of one knob that were tried, or that give no other model that runs."""
        listed = {(name, value) for name, values in other_values(incumbent).items() for value in values}
        idle = {(name, value) for name, value in listed if not self._optimizer.runs(incumbent, name, value)}
        return frozenset(idle | self._optimizer.tried(incumbent))

    def near_misses(self, history: JournalReader) -> list[NearMiss]:
        """Return edits that were not kept and were no worse than the noise, the best first."""
        return self.lessons.near_misses(history.scores(), self._sigma(history))

    def _sigma(self, history: JournalReader) -> float:
        return pooled_sigma(list(history.scores().values()), self._profile.sigma_floor)

    def _advice(self, history: JournalReader, incumbent: str, *, suggests: bool) -> Advice:
        """Return the knobs. A small model that sees the optimiser's suggestion copies it."""
        suggestion = self._suggestion(history, incumbent) if suggests else None
        return Advice(_knob_lines(incumbent, self._effects(history), self._profile.metric), suggestion)

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
        lines = [f"{effect.knob} {_effect(effect, self._profile.metric)}" for effect in self._effects(history)]
        return _section("What moving a knob did to the score, and how sure that is", lines)

    def _effects(self, history: JournalReader) -> list[Effect]:
        return effects(self._optimizer.moves(), self._sigma(history))

    def _lesson_lines(self, history: JournalReader, earlier: int) -> tuple[str, ...]:
        dead = self.lessons.dead_ends(history.scores(), self._sigma(history), earlier)
        return (
            *_section(
                "Not kept, but no worse than noise: one of them with another change may help",
                [_near_miss_text(miss, self._profile.metric) for miss in self.near_misses(history)],
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


def _near_miss_text(miss: NearMiss, metric: Metric) -> str:
    return f"{miss.experiment.number}: {miss.experiment.title} ({metric.change(-miss.gain):+.6f})"


def _unless_banned(item: Experiment) -> str:
    return "" if item.outcome is not None and is_banned([item.outcome]) else " (a failure: refused after the second)"


def _about_a_part(context: PromptContext, asked_before: int) -> PromptContext:
    """Return a question about one function, the next one for every second question, which then asks for less code."""
    try:
        parts = short_parts(context.source, PART_TOKENS)
    except EditError:
        return context
    if not parts:
        return context
    return replace(context, part=parts[asked_before // 2 % len(parts)], removes=bool(asked_before % 2))


def _knob_lines(source: str, known: Sequence[Effect], metric: Metric) -> tuple[str, ...]:
    """Return the lines of knobs with a range, including the comments with ranges, and the effects of their moves."""
    ranged = {name for name, knob in read_knobs(source).items() if knob.range is not None}
    found = ((_ASSIGNED.match(line), line) for line in source.splitlines())
    return tuple(
        " | ".join([line, *(_effect(effect, metric) for effect in known if effect.knob == name[1])])
        for name, line in found
        if name and name[1] in ranged
    )


def _section(heading: str, lines: list[str]) -> tuple[str, ...]:
    return (f"## {heading}", *lines) if lines else ()


def _effect(effect: Effect, metric: Metric) -> str:
    failed = f", {effect.failed} failed" if effect.failed else ""
    if effect.mean is None or effect.sd is None:
        return f"{effect.direction}: no score{failed}"
    return f"{effect.direction}: {metric.change(effect.mean):+.5f} ± {effect.sd:.5f}, tried {effect.measured}{failed}"


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
