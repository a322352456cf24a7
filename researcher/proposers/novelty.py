"""Rejects candidates that the journal shows to be useless. It only reads the journal.

It also predicts that a candidate runs out of memory, without any estimate: the candidate must be at least as large in
every size as two candidates that ran out of memory. Two sources are compared only if they differ in nothing but sizes
and knobs that use no memory. A failed source that is no larger than the incumbent is ignored: the incumbent fits, so
size was not the cause.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from researcher.decision.rules import is_banned, rolled_back_keeps
from researcher.journal.reader import JournalReader
from researcher.journal.records import Confirmation, Experiment
from researcher.source.fingerprint import read_facts
from researcher.source.information_limit import KNOBS_SLACK, RUN, USER_CAP, Cap, refuse_carried
from researcher.source.proposal import Candidate, ProposerName
from trainer.jobs import BITS_PER_BYTE, Metric, Outcome

ENOUGH = 2  # a single failure may be the infrastructure's
_KNOB = re.compile(
    r"Assign\(targets=\[Name\(id='([A-Z][A-Z0-9_]*)', ctx=Store\(\)\)\], value=Constant\(value=([\d.e+-]+)\)\)"
)
_SIZES = {"DEPTH", "ASPECT_RATIO", "DEVICE_BATCH_SIZE", "WIDTH", "N_LAYER", "N_EMBD"}  # larger values need more memory
_NO_MEMORY = re.compile(r"TOTAL_BATCH_SIZE|(?:.*_)?(?:LR|DECAY|BETA\d?|MOMENTUM|WARMUP|WARMDOWN|FRAC|SEED)(?:_.*)?")


@dataclass(frozen=True)
class _Size:
    """The knobs that affect memory, and all other statements that could."""

    knobs: dict[str, float]
    rest: tuple[str, ...]

    def holds(self, other: _Size) -> bool:
        """Return True if this source is comparable with `other` and smaller in no size."""
        return (
            self.rest == other.rest
            and self.knobs.keys() == other.knobs.keys()
            and all(self.knobs[name] >= value for name, value in other.knobs.items())
        )


def too_large(source: str, incumbent: str, ran_out: Sequence[tuple[int, str]]) -> str | None:
    """Return the reason why `source` is too large, or None.

    `ran_out` holds the numbers and sources of experiments that ran out of memory.
    """
    if len(ran_out) < ENOUGH:
        return None
    ours, runs = _size(source), _size(incumbent)
    smaller = [(number, size) for number, text in ran_out if ours.holds(size := _size(text)) and not runs.holds(size)]
    if len(smaller) < ENOUGH:
        return None
    (one, size), (other, _) = smaller[-2:]
    sizes = ", ".join(f"{name} {value:g}" for name, value in size.knobs.items())
    return f"experiments {one} and {other} ran out of memory ({one} with {sizes}), and this is nowhere smaller"


@lru_cache(maxsize=64)
def _size(source: str) -> _Size:
    knobs: dict[str, float] = {}
    rest: list[str] = []
    for statement in read_facts(source).statements:
        knob = _KNOB.fullmatch(statement)
        if knob is not None and knob[1] in _SIZES:
            knobs[knob[1]] = float(knob[2])
        elif knob is None or not _NO_MEMORY.fullmatch(knob[1]):
            rest.append(statement)
    return _Size(knobs, tuple(rest))


def objection(journal: JournalReader, by: str) -> Callable[[Candidate], str | None]:
    """Return a function that names the journal's objection to a candidate, or returns None.

    The objections: the same code was tried, the same change was discarded or failed on other code, or a candidate that
    is no larger ran out of memory. A user may try a change again on other code, and may try a larger candidate.
    """
    run, ran_out = journal.run(), [] if by == ProposerName.HUMAN else journal.ran_out_of_memory()
    ground = None if run is None or run.incumbent is None else _ground(journal, run.incumbent, by)
    incumbent = None if run is None or run.incumbent is None or not ran_out else journal.source(run.incumbent)

    metric = BITS_PER_BYTE if run is None else run.metric

    def answer(candidate: Candidate) -> str | None:
        if run is not None and run.incumbent is not None and ground is not None:
            _refuse_creep(candidate.source, journal.source(run.incumbent), ground, by)
        same = _speaks_against_it(journal, candidate.fingerprint)
        if same is not None:
            return f"the same code was tried before ({_outcome_text(same, metric)})"
        before = [] if by == ProposerName.HUMAN else journal.not_kept(candidate.change)
        if is_banned([item.outcome for item in before if item.outcome is not None]):
            outcomes = "; ".join(_outcome_text(item, metric) for item in before[-2:])
            return f"the same change was tried on other code ({outcomes})"
        return None if incumbent is None else too_large(candidate.source, incumbent, ran_out)

    return answer


def _ground(journal: JournalReader, incumbent: int, by: str) -> str:
    """Return the source from which growth is measured.

    It is the baseline, or for models the incumbent's latest ancestor that a user submitted.
    """
    experiment = journal.experiment(incumbent)
    while experiment.parent is not None and (by == ProposerName.HUMAN or experiment.proposer != ProposerName.HUMAN):
        experiment = journal.experiment(experiment.parent)
    return journal.source(experiment.id)


def _refuse_creep(source: str, incumbent: str, ground: str, by: str) -> None:
    """Limit the sum of many small edits as one edit is limited. At the limit, knobs may still move. Raises Rejected."""
    cap = USER_CAP if by == ProposerName.HUMAN else RUN
    if read_facts(source).numberless == read_facts(incumbent).numberless:
        cap = Cap(cap.added + KNOBS_SLACK, cap.literal + KNOBS_SLACK)
    refuse_carried(source, ground, cap, "the script the run grew from")


def _speaks_against_it(journal: JournalReader, fingerprint: str) -> Experiment | None:
    """Return the experiment that already tried this code, or None if the code may run again.

    Lost trials were never measured. Code that a confirmation rolled back for a failure, without comparing scores, may
    have met an accident, and may be tried once more.
    """
    measured = [item for item in journal.tried(fingerprint) if item.outcome is not Outcome.LOST]
    if len(measured) == 1:
        failed = [each for each in journal.confirmations() if _rolled_back_by_failing(journal, each)]
        if measured[0].id in rolled_back_keeps(journal.experiments(), failed):
            return None
    return next(iter(measured), None)


def _rolled_back_by_failing(journal: JournalReader, confirmation: Confirmation) -> bool:
    """Return True if the confirmation rolled back for a failed trial, not for scores or an unscorable trial."""
    if not confirmation.rolled_back or confirmation.gain is not None:
        return False
    outcomes = [trial.outcome for trial in journal.trials(confirmation=confirmation.id)[-1:]]
    return all(each is not None and each.is_failure for each in outcomes)


def _outcome_text(experiment: Experiment, metric: Metric) -> str:
    score = "" if experiment.score is None else f", {metric.text(experiment.score)}"
    return f"experiment {experiment.number}: {experiment.decision or experiment.state}{score}"
