"""The held-out slice: what a gain on the validation rows is on text that no decision saw.

Hundreds of candidates are compared on the same validation rows, so part of what is kept may fit those rows alone; that
part is a gain there which is not one here. For people: nothing that a prompt, a proposer or a rule reads comes from
here. Values in, values out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean

from researcher.journal.records import Confirmation, ConfirmationVerdict, Decision, Experiment, Trial


@dataclass(frozen=True)
class ScorePair:
    """Means of the trials that were scored on both slices, in bits per byte."""

    val: float
    heldout: float
    trials: int

    @property
    def gap(self) -> float:
        """One text is harder than another, so a gap says something only beside another code's."""
        return self.heldout - self.val


@dataclass(frozen=True)
class HeldOutGain:
    """Some code and what it is to improve on."""

    code: ScorePair
    base: ScorePair

    @property
    def val_gain(self) -> float:
        """On the rows that decided."""
        return self.base.val - self.code.val

    @property
    def heldout_gain(self) -> float:
        """On the rows that did not."""
        return self.base.heldout - self.code.heldout


@dataclass(frozen=True)
class HeldOut:
    """Each keep against the baseline, by experiment id, and the fresh seeds of each claim, by confirmation id; those
    that were scored held out. `confirmed` is the gain of all claims that stand, None unless all of them are there."""

    keeps: dict[int, HeldOutGain]
    claims: dict[int, HeldOutGain]
    confirmed: float | None


def held_out(
    experiments: list[Experiment], checks: list[Confirmation], fallen: Iterable[int], trials: list[Trial]
) -> HeldOut:
    """From everything that was measured; `fallen` are experiments that a check threw away."""
    runs = defaultdict[int, list[Trial]](list)
    fresh = defaultdict[tuple[int, int], list[Trial]](list)
    for trial in trials:
        runs[trial.experiment].append(trial)
        if trial.confirmation is not None:
            fresh[trial.confirmation, trial.experiment].append(trial)
    baseline = runs[experiments[0].id]
    kept = [item.id for item in experiments if item.decision is Decision.KEEP and not item.is_baseline]
    claims = _known(
        {check.id: _against(fresh[check.id, check.base or 0], fresh[check.id, check.head]) for check in checks}
    )
    stand = [
        check.id for check in checks if check.verdict is ConfirmationVerdict.CONFIRMED and check.head not in fallen
    ]
    gains = [claims[check].heldout_gain for check in stand if check in claims]
    return HeldOut(
        keeps=_known({item: _against(baseline, runs[item]) for item in kept}),
        claims=claims,
        confirmed=sum(gains) if stand and len(gains) == len(stand) else None,
    )


def _known(found: dict[int, HeldOutGain | None]) -> dict[int, HeldOutGain]:
    return {item: compared for item, compared in found.items() if compared is not None}


def _against(base: list[Trial], code: list[Trial]) -> HeldOutGain | None:
    ours, theirs = _both(code), _both(base)
    return None if ours is None or theirs is None else HeldOutGain(ours, theirs)


def _both(trials: list[Trial]) -> ScorePair | None:
    scores = [
        (trial.val_bpb, trial.heldout_bpb)
        for trial in trials
        if trial.val_bpb is not None and trial.heldout_bpb is not None
    ]
    return (
        ScorePair(fmean(val for val, _ in scores), fmean(held for _, held in scores), len(scores)) if scores else None
    )
