"""A night told in advance: the real loop, journal, git and queue in the test's process, and a list of what happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from researcher.decision.rules import CLAIM_HOURS, CrashReset, Rule
from researcher.journal.database import WriterLock
from researcher.journal.records import Prices
from researcher.journal.writer import Journal
from researcher.loop.context import Goal, Lab
from researcher.loop.loop import work
from researcher.proposers.llm_conversation import Draft
from researcher.queues.trials import TrialQueue
from researcher.repository.recovery import open_subject
from researcher.source.proposal import Proposal, Proposer, WholeFile
from researcher.source.validation import fingerprint
from tests.researcher.conftest import SUBJECT, ScriptedNight
from trainer.jobs import profile_named

BRANCH = "overnight/night"
REFUSED = Draft(Proposal(Proposer.LLM, "no Python", "", ()), rejected="train.py does not parse")
Happening = str | Draft | Callable[[Lab], None]


def level(score: float, *marks: str) -> str:
    """A train.py with that score; the marks are for the scripted trainer."""
    return SUBJECT.replace("LEVEL = 1.8", f"LEVEL = {score}") + "".join(f"# {mark}\n" for mark in marks)


class ToldAll(Exception):
    """The list has no more."""


class ListedProposers:
    """Offers each train.py or draft of a list in turn; what is neither is done in the proposal's place."""

    def __init__(self, happenings: list[Happening]) -> None:
        self.lab: Lab | None = None
        self._happenings = iter(happenings)

    def next_draft(self, *_: object, **__: object) -> Draft | None:
        """The next of the list. Raises ToldAll after the last."""
        happening = next(self._happenings, None)
        if happening is None:
            raise ToldAll
        if isinstance(happening, str):
            return Draft(Proposal(Proposer.LLM, "as listed", "", (WholeFile(happening),)))
        if isinstance(happening, Draft):
            return happening
        assert self.lab is not None
        happening(self.lab)
        return None

    def learn(self, _: object) -> None:
        """Nothing."""

    def store_exchanges(self, *_: object) -> None:
        """Nothing."""

    def draft_ahead(self, _: object) -> None:
        """Nothing."""

    def leave_card(self, _: object) -> None:
        """There is none."""


@contextmanager
def opened(
    night: ScriptedNight,
    happenings: list[Happening],
    *,
    rule: Rule = Rule.WALK,
    crash_reset: CrashReset = CrashReset.CONFIRMED,
    claim_hours: float = CLAIM_HOURS,
    goal: Goal | None = None,
    source: str = SUBJECT,
    seed_key: str | None = None,
) -> Iterator[Lab]:
    """A lab on the night's journal, begun if it is new."""
    lock, profile = WriterLock(night.journal), profile_named("cpu")
    journal, proposers = Journal(night.journal), ListedProposers(happenings)
    workspace = open_subject(night.subject, journal)
    if journal.run() is None:
        journal.start_run(
            tag="night", profile="cpu", budget=15.0, branch=BRANCH, base_commit=workspace.head(), data_sha256="d" * 64,
            seed=7, prices=Prices(), source=source, fingerprint=fingerprint(source), at=1.0, seed_key=seed_key,
        )  # fmt: skip
    measured = sum(isinstance(happening, str) for happening in happenings)
    lab = Lab(
        journal=journal, workspace=workspace, trials=TrialQueue(night.bus), proposers=proposers,
        profile=profile, rule=rule, crash_reset=crash_reset, claim_hours=claim_hours,
        goal=goal or Goal(journal.measured_count() + measured),
        project=lambda: None, tick=lambda: None, rest=lambda: None, say=lambda _: None,
    )  # fmt: skip
    proposers.lab = lab
    try:
        yield lab
    finally:
        workspace.close()
        journal.close()
        lock.release()


def tell(night: ScriptedNight, happenings: list[Happening], **settings: Any) -> None:
    """The night to the end of the list, or to its goal, which is the number of sources in the list unless given."""
    with opened(night, happenings, **settings) as lab, suppress(ToldAll):
        work(lab)
