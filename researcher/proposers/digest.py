"""What the LLM is told of the run: a deterministic digest of the journal. No held-out score ever goes in here."""

from __future__ import annotations

from statistics import fmean

from researcher.decision.rules import pooled_sigma
from researcher.decision.standing import rolled_back_keeps
from researcher.journal.reader import JournalReader
from researcher.journal.records import Decision, Experiment
from researcher.prompting.prompt import PromptContext
from researcher.source.proposal import ReplaceFunction
from trainer.jobs import Clock, Outcome, Profile

HISTORY_LINES = 60
DROPPED_LINES = 20  # at once, the oldest: prompts between keep their beginning
REJECTION_LINES = 5
TURN_EXPERIMENTS = 5  # for which a train.py too long to be shown is shown in the same parts
TOUCHED = 4  # of them may say which parts


def prompt_context(
    history: JournalReader, profile: Profile, program: str, source: str, idea: str | None
) -> PromptContext:
    """The state of the run for one question about the incumbent's `source`."""
    recent = history.recent(HISTORY_LINES)
    number = recent[-1].number + 1 if recent else 0
    turn = number // TURN_EXPERIMENTS
    first = max(0, -(-(number - HISTORY_LINES) // DROPPED_LINES) * DROPPED_LINES)
    measured = [item for item in recent if item.number >= first and (item.was_measured or item.is_baseline)]
    fallen = rolled_back_keeps(history.experiments(), history.confirmations())
    rejected = [item for item in recent if item.outcome is Outcome.REJECTED][-REJECTION_LINES:]
    return PromptContext(
        program=program,
        profile=profile_text(profile),
        source=source,
        incumbent=_incumbent_text(history, profile),
        history=tuple(_line(item, fallen.get(item.id)) for item in measured),
        rejections=tuple(f"{item.title}: {item.reason}" for item in rejected),
        idea=idea,
        earlier=first,
        named=_touched(history, measured, turn * TURN_EXPERIMENTS),
        turn=turn,
    )


def profile_text(profile: Profile) -> str:
    """The machine and the budget, in a sentence each."""
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


def _touched(history: JournalReader, measured: list[Experiment], settled: int) -> tuple[str, ...]:
    """Functions that the newest keeps wrote anew, and near misses before the experiment `settled`, newest first."""
    scores = history.scores()
    touching = [
        item
        for item in measured
        if item.decision is Decision.KEEP or (item.number < settled and _was_near(item, scores))
    ]
    proposals = [history.proposal(item.id) for item in reversed(touching[-TOUCHED:])]
    edits = [edit for proposal in proposals if proposal for edit in proposal.edits]
    return tuple(dict.fromkeys(edit.name for edit in edits if isinstance(edit, ReplaceFunction) and edit.name))


def _was_near(item: Experiment, scores: dict[int, list[float]]) -> bool:
    """Better than its parent, by less than was asked."""
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


def _line(item: Experiment, fallen: str | None) -> str:
    if fallen is not None:
        return f"{item.number} rolled back: {item.title}: {fallen}"
    return f"{item.number} {item.decision or item.state}: {item.title}: {item.reason or ''}"
