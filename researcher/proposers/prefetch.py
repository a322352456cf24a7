"""Drafting ahead: the LLM is asked on a thread of its own while a trial runs, so that the trainer need not wait for it.

Promises: one question at a time, at most `AHEAD` drafts wait; what went wrong in the thread is raised to whoever
collects. Drafts live in memory: a killed researcher loses them and nothing else. Does not decide whose turn it is.
"""

from __future__ import annotations

import difflib
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from researcher.journal.reader import JournalReader
from researcher.proposers.draft import Draft, Tick
from researcher.source.edits import apply_edits
from researcher.source.proposal import Proposal, ProposerName

AHEAD = 2


class GpuSharingPolicy(Protocol):
    """Whether the LLM may speak now: beside a trial it must take nothing that the trial's budget counts."""

    def may_draft(self) -> bool:
        """Asked before every question that is not waited for."""


@dataclass(frozen=True)
class FixedPolicy:
    """The lease where nothing is shared, or all is: the same answer all run."""

    apart: bool

    def may_draft(self) -> bool:
        """Whether the LLM runs elsewhere, or where a trial's budget does not notice it."""
        return self.apart


@dataclass(frozen=True)
class DraftRequest:
    """What a draft was asked for: the incumbent's source then, whose turn, and a user's idea by its request."""

    source: str
    whose: str = ProposerName.LLM
    idea: str | None = None


@dataclass(frozen=True)
class PendingDraft:
    """A draft that waits."""

    asked: DraftRequest
    draft: Draft


class Closed(Exception):
    """Nobody waits for this draft any more."""


Ask = Callable[[JournalReader, Tick], Draft]


class Prefetch:
    """The thread, and what it brought. All but the thread's own work is called from one thread."""

    def __init__(self, journal: Path, lease: GpuSharingPolicy) -> None:
        """`journal` is its folder: the thread reads it through a connection of its own."""
        self._journal = journal
        self._lease = lease
        self._ready: list[PendingDraft] = []
        self._under_way: DraftRequest | None = None
        self._pool = ThreadPoolExecutor(1, "drafting")
        self._answer: Future[Draft] | None = None
        self._closed = threading.Event()

    @property
    def may_draft(self) -> bool:
        """As the lease says."""
        return self._lease.may_draft()

    @property
    def is_idle(self) -> bool:
        """Whether a question may be asked now."""
        return self._answer is None and self.may_draft

    @property
    def has_room(self) -> bool:
        """For one more draft."""
        return len(self._ready) < AHEAD

    @property
    def under_way(self) -> DraftRequest | None:
        """What is being asked, or has been and was not collected yet."""
        return self._under_way

    @property
    def ideas(self) -> set[str]:
        """The requests that a draft is being made for, or waits."""
        asked = [ready.asked for ready in self._ready] + ([self._under_way] if self._under_way else [])
        return {each.idea for each in asked if each.idea is not None}

    @property
    def waiting(self) -> tuple[PendingDraft, ...]:
        """Oldest first."""
        return tuple(self._ready)

    def begin(self, asked: DraftRequest, ask: Ask) -> None:
        """Have `ask` called in the thread: with a history, and a tick that raises once nobody waits any more."""
        assert self._answer is None, "one question at a time"
        self._under_way = asked
        self._answer = self._pool.submit(self._work, ask)

    def collect(self) -> Draft | None:
        """Put what the thread has brought among those that wait, and give it; None while there is nothing new.

        Raises what `ask` raised.
        """
        answer, asked = self._answer, self._under_way
        if answer is None or asked is None or not answer.done():
            return None
        self._answer = self._under_way = None
        draft = answer.result()
        self.keep(PendingDraft(asked, draft))
        return draft

    def keep(self, ready: PendingDraft) -> None:
        """Have it wait."""
        self._ready.append(ready)

    def take(self, whose: str) -> PendingDraft | None:
        """The next one for a turn, a user's idea first whosever turn it is; None where none waits."""
        found = next((each for each in self._ready if each.asked.idea is not None), None)
        found = found or next((each for each in self._ready if each.asked.whose == whose), None)
        if found is not None:
            self._ready.remove(found)
        return found

    def close(self) -> None:
        """Give up what is under way; the thread leaves at its next tick."""
        self._closed.set()
        self._pool.shutdown(wait=False)

    def _work(self, ask: Ask) -> Draft:
        with closing(JournalReader(self._journal)) as history:
            return ask(history, self._tick)

    def _tick(self) -> None:
        if self._closed.is_set():
            raise Closed


def reverts_later_keep(proposal: Proposal, before: str, incumbent: str) -> str | None:
    """Why a proposal for the source `before` is none for the later `incumbent`; None where it still is.

    Its edits must leave standing all that was kept in between: a whole file, or a function that was changed since,
    would take it back unseen. Raises EditError where they do not fit any more.
    """
    if before == incumbent:
        return None
    then, now = (apply_edits(source, proposal.edits) for source in (before, incumbent))
    kept = _changed(before, incumbent)
    return None if _changed(then, now) == kept else "it would take back what was kept since"


def _changed(old: str, new: str) -> list[str]:
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), n=0, lineterm="")
    return [line for line in lines if not line.startswith("@@")]
