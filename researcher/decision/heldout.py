"""Held-out scores: they show how much of a gain on the validation rows also appears on text that no decision used.

Hundreds of candidates are compared on the same validation rows, so a kept change may fit those rows alone. Such a gain
does not appear on held-out text. These figures are for users only: no prompt, proposer or rule reads them. All
functions take and return values.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean

from researcher.journal.records import Confirmation, ConfirmationVerdict, Decision, Experiment, Trial


@dataclass(frozen=True)
class ScorePair:
    """Means of the trials that were scored on both slices."""

    val: float
    heldout: float
    trials: int

    @property
    def gap(self) -> float:
        """The difference of the two scores.

        One text is harder than the other, so compare this gap only with another version's.
        """
        return self.heldout - self.val


@dataclass(frozen=True)
class HeldOutGain:
    """The scores of a version and of the version that it is compared with."""

    code: ScorePair
    base: ScorePair

    @property
    def val_gain(self) -> float:
        """The gain on the validation rows."""
        return self.base.val - self.code.val

    @property
    def heldout_gain(self) -> float:
        """The gain on the held-out rows."""
        return self.base.heldout - self.code.heldout


@dataclass(frozen=True)
class HeldOut:
    """The held-out gains of a run, as far as the trials have held-out scores.

    `keeps` compares each keep with the baseline, by experiment id. `claims` compares head and base of each claim, by
    confirmation id. `confirmed` is the sum over all claims that still stand, or None if one of their gains is unknown.
    """

    keeps: dict[int, HeldOutGain]
    claims: dict[int, HeldOutGain]
    confirmed: float | None


def held_out(
    experiments: list[Experiment], confirmations: list[Confirmation], rolled_back: Iterable[int], trials: list[Trial]
) -> HeldOut:
    """Compute all held-out gains of a run. `rolled_back` are the ids of experiments that a confirmation rolled back."""
    runs = defaultdict[int, list[Trial]](list)
    fresh = defaultdict[tuple[int, int], list[Trial]](list)
    for trial in trials:
        runs[trial.experiment].append(trial)
        if trial.confirmation is not None:
            fresh[trial.confirmation, trial.experiment].append(trial)
    baseline = runs[experiments[0].id]
    kept = [item.id for item in experiments if item.decision is Decision.KEEP and not item.is_baseline]
    claims = _known(
        {each.id: _against(fresh[each.id, each.base or 0], fresh[each.id, each.head]) for each in confirmations}
    )
    stand = [
        each.id
        for each in confirmations
        if each.verdict is ConfirmationVerdict.CONFIRMED and each.head not in rolled_back
    ]
    gains = [claims[each].heldout_gain for each in stand if each in claims]
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
