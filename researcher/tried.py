"""What the journal says against a candidate: pure but for its questions."""

from __future__ import annotations

from collections.abc import Callable

from researcher.decision import is_banned
from researcher.experiment import Experiment
from researcher.history import History
from researcher.memory import too_large
from researcher.proposal import Candidate, Proposer


def tried(journal: History, by: Proposer) -> Callable[[Candidate], str | None]:
    """What the journal says against a candidate, in words: its code was tried, its change has failed elsewhere, or what
    is no larger ran out of memory.

    A person may try a change again on other code, and may try a larger one.
    """
    run, ran_out = journal.run(), [] if by is Proposer.HUMAN else journal.ran_out_of_memory()
    incumbent = None if run is None or run.incumbent is None or not ran_out else journal.source(run.incumbent)

    def answer(candidate: Candidate) -> str | None:
        same = journal.tried(candidate.fingerprint)
        if same is not None:
            return f"the same code was tried before ({_told(same)})"
        before = [] if by is Proposer.HUMAN else journal.not_kept(candidate.change)
        if is_banned([item.outcome for item in before if item.outcome is not None]):
            return f"the same change was tried on other code ({'; '.join(map(_told, before[-2:]))})"
        return None if incumbent is None else too_large(candidate.source, incumbent, ran_out)

    return answer


def _told(experiment: Experiment) -> str:
    score = "" if experiment.score is None else f", {experiment.score:.6f}"
    return f"experiment {experiment.number}: {experiment.decision or experiment.state}{score}"
