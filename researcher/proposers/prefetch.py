"""Prefetch: a thread asks the LLM for drafts while a trial runs, so that the trainer does not wait for the LLM.

There is one question at a time, and at most `AHEAD` drafts wait. An error in the thread is raised by `collect`. Drafts
are kept in memory only: a killed researcher loses them and nothing else. The schedule is decided elsewhere.
"""

from __future__ import annotations

import difflib
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from researcher.journal.reader import JournalReader
from researcher.proposers.draft import Draft, Tick
from researcher.source.edits import apply_edits
from researcher.source.proposal import Proposal, ProposerName

AHEAD = 2
DRAIN_S = 60.0  # for an answer in progress, before it is cancelled for a trial
TICK_S = 0.25


class GpuSharingPolicy(Protocol):
    """Decides whether the LLM may run beside a trial: it must use nothing that the trial's budget counts."""

    def may_draft(self) -> bool:
        """Return True if a question may be asked beside a trial now. The policy is asked before each such question."""


@dataclass(frozen=True)
class FixedPolicy:
    """A policy with the same answer throughout a run."""

    apart: bool

    def may_draft(self) -> bool:
        """Return True if the LLM runs elsewhere, or on hardware that the trial's budget does not count."""
        return self.apart


@dataclass(frozen=True)
class DraftRequest:
    """The origin of a draft: the incumbent's source, the proposer's name, and the request id of a user's idea."""

    source: str
    proposer_name: str = ProposerName.LLM
    idea: str | None = None


@dataclass(frozen=True)
class PendingDraft:
    """A draft that waits for its turn."""

    asked: DraftRequest
    draft: Draft


class Closed(Exception):
    """Ends the thread's work because no proposer waits for the draft any more."""


Ask = Callable[[JournalReader, Tick], Draft]


class Prefetch:
    """The prefetch thread and its finished drafts. Call all public methods from one thread."""

    def __init__(self, journal: Path, policy: GpuSharingPolicy) -> None:
        """Create the thread. `journal` is the journal's folder; the thread reads it through its own connection."""
        self._journal = journal
        self._policy = policy
        self._ready: list[PendingDraft] = []
        self._under_way: DraftRequest | None = None
        self._pool = ThreadPoolExecutor(1, "drafting")
        self._answer: Future[Draft] | None = None
        self._closed = threading.Event()
        self._cancelled = threading.Event()

    @property
    def may_draft(self) -> bool:
        """Whether the policy allows a question now."""
        return self._policy.may_draft()

    @property
    def is_idle(self) -> bool:
        """Whether a question may be asked now."""
        return self._answer is None and self.may_draft

    @property
    def has_room(self) -> bool:
        """Whether one more draft may wait."""
        return len(self._ready) < AHEAD

    @property
    def under_way(self) -> DraftRequest | None:
        """The request in progress, or finished and not collected yet."""
        return self._under_way

    @property
    def ideas(self) -> set[str]:
        """The request ids of users' ideas that have a draft, in progress or waiting."""
        asked = [ready.asked for ready in self._ready] + ([self._under_way] if self._under_way else [])
        return {each.idea for each in asked if each.idea is not None}

    @property
    def waiting(self) -> tuple[PendingDraft, ...]:
        """The waiting drafts, oldest first."""
        return tuple(self._ready)

    def begin(self, asked: DraftRequest, ask: Ask) -> None:
        """Call `ask` in the thread, with a reader of the journal and a tick that raises Closed after `close`."""
        assert self._answer is None, "one question at a time"
        self._under_way = asked
        self._answer = self._pool.submit(self._work, ask)

    def collect(self) -> Draft | None:
        """Move the thread's finished draft to the waiting ones and return it, or return None if nothing has finished.

        Raises the exception that `ask` raised.
        """
        answer, asked = self._answer, self._under_way
        if answer is None or asked is None or not answer.done():
            return None
        self._answer = self._under_way = None
        draft = answer.result()
        self.keep(PendingDraft(asked, draft))
        return draft

    def drain(self, tick: Tick, limit_s: float = DRAIN_S) -> None:
        """Wait for the end of the question in progress, and cancel it after `limit_s`. `collect` returns its draft."""
        answer, give_up_s = self._answer, time.monotonic() + limit_s
        while answer is not None and not answer.done():
            tick()
            if time.monotonic() >= give_up_s:
                self._cancelled.set()
            wait([answer], timeout=TICK_S)
        self._cancelled.clear()
        if answer is not None and isinstance(answer.exception(), Closed):
            self._answer = self._under_way = None

    def keep(self, ready: PendingDraft) -> None:
        """Add a draft to the waiting ones."""
        self._ready.append(ready)

    def take(self, proposer_name: str) -> PendingDraft | None:
        """Remove and return the next draft for a turn, or None. Drafts of users' ideas come first in any turn."""
        found = next((each for each in self._ready if each.asked.idea is not None), None)
        found = found or next((each for each in self._ready if each.asked.proposer_name == proposer_name), None)
        if found is not None:
            self._ready.remove(found)
        return found

    def close(self) -> None:
        """Cancel the request in progress; the thread ends at its next tick."""
        self._closed.set()
        self._pool.shutdown(wait=False)

    def _work(self, ask: Ask) -> Draft:
        with closing(JournalReader(self._journal)) as history:
            return ask(history, self._tick)

    def _tick(self) -> None:
        if self._closed.is_set() or self._cancelled.is_set():
            raise Closed


def reverts_later_keep(proposal: Proposal, before: str, incumbent: str) -> str | None:
    """Return the reason why a proposal for the source `before` does not apply to the later `incumbent`, or None.

    Its edits must keep all changes made in between. A whole file, or a function that has changed since, would silently
    revert them. Raises EditError if an edit no longer matches.
    """
    if before == incumbent:
        return None
    then, now = (apply_edits(source, proposal.edits) for source in (before, incumbent))
    kept = _changed(before, incumbent)
    return None if _changed(then, now) == kept else "it would take back what was kept since"


def _changed(old: str, new: str) -> list[str]:
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), n=0, lineterm="")
    return [line for line in lines if not line.startswith("@@")]
