"""What the journal says against a candidate: pure but for its questions."""

from __future__ import annotations

from collections.abc import Callable

from researcher.decision.rules import is_banned
from researcher.decision.standing import rolled_back_keeps
from researcher.journal.reader import JournalReader
from researcher.journal.records import Confirmation, Experiment
from researcher.proposers.memory import too_large
from researcher.source.fingerprint import read_facts
from researcher.source.information_limit import KNOBS_SLACK, PERSON, RUN, Cap, refuse_carried
from researcher.source.proposal import Candidate, Proposer
from trainer.jobs import Outcome


def objection(journal: JournalReader, by: str) -> Callable[[Candidate], str | None]:
    """What the journal says against a candidate, in words: its code was tried, its change has failed elsewhere, or what
    is no larger ran out of memory.

    A person may try a change again on other code, and may try a larger one.
    """
    run, ran_out = journal.run(), [] if by == Proposer.HUMAN else journal.ran_out_of_memory()
    ground = None if run is None or run.incumbent is None else _ground(journal, run.incumbent, by)
    incumbent = None if run is None or run.incumbent is None or not ran_out else journal.source(run.incumbent)

    def answer(candidate: Candidate) -> str | None:
        if run is not None and run.incumbent is not None and ground is not None:
            _refuse_creep(candidate.source, journal.source(run.incumbent), ground, by)
        same = _speaks_against_it(journal, candidate.fingerprint)
        if same is not None:
            return f"the same code was tried before ({_told(same)})"
        before = [] if by == Proposer.HUMAN else journal.not_kept(candidate.change)
        if is_banned([item.outcome for item in before if item.outcome is not None]):
            return f"the same change was tried on other code ({'; '.join(map(_told, before[-2:]))})"
        return None if incumbent is None else too_large(candidate.source, incumbent, ran_out)

    return answer


def _ground(journal: JournalReader, incumbent: int, by: str) -> str:
    """The source that growth is measured from: the baseline, or for models the last file of a person's before."""
    experiment = journal.experiment(incumbent)
    while experiment.parent is not None and (by == Proposer.HUMAN or experiment.proposer != Proposer.HUMAN):
        experiment = journal.experiment(experiment.parent)
    return journal.source(experiment.id)


def _refuse_creep(source: str, incumbent: str, ground: str, by: str) -> None:
    """Raises Rejected: many small edits together are held to a cap as one is. Where it is reached, knobs still move."""
    cap = PERSON if by == Proposer.HUMAN else RUN
    if read_facts(source).numberless == read_facts(incumbent).numberless:
        cap = Cap(cap.added + KNOBS_SLACK, cap.literal + KNOBS_SLACK)
    refuse_carried(source, ground, cap, "the script the run grew from")


def _speaks_against_it(journal: JournalReader, fingerprint: str) -> Experiment | None:
    """The experiment for whose sake this code is not run again, if any.

    What the machine lost was never measured. What a check threw away because something did not run, without comparing
    scores, may have met with an accident: it may be tried again, once.
    """
    measured = [item for item in journal.tried(fingerprint) if item.outcome is not Outcome.LOST]
    if len(measured) == 1:
        failed = [check for check in journal.confirmations() if _fell_by_failing(journal, check)]
        if measured[0].id in rolled_back_keeps(journal.experiments(), failed):
            return None
    return next(iter(measured), None)


def _fell_by_failing(journal: JournalReader, check: Confirmation) -> bool:
    """True where no score was compared and nothing was found unscorable: something did not run."""
    outcomes = [trial.outcome for trial in journal.trials(confirmation=check.id)[-1:]]
    return check.fell and check.gain is None and all(each is not None and each.is_failure for each in outcomes)


def _told(experiment: Experiment) -> str:
    score = "" if experiment.score is None else f", {experiment.score:.6f}"
    return f"experiment {experiment.number}: {experiment.decision or experiment.state}{score}"
