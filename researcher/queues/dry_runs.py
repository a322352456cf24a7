"""Requests dry runs: the dry-run worker tests whether a train.py builds its model and completes its first step.

A candidate is refused only if it fails and the incumbent passes. If the worker does not answer, or the answer is in
doubt, the candidate goes on and its trial decides. A missing worker is reported once at the beginning of each absence.
While the incumbent's own dry run is unknown, none is requested.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

from rq.exceptions import DuplicateJobError, InvalidJobOperation, NoSuchJobError
from rq.job import JobStatus

from researcher.errors import Rejected
from trainer.jobs import (
    DRY_RUNS,
    RUN_DRY_RUN,
    DryRunResult,
    DryRunSpec,
    DryRunVerdict,
    Profile,
    RedisClient,
    StatusKind,
    Unreadable,
    WorkerRole,
)

logger = logging.getLogger(__name__)

WAIT_S = 90.0  # a dry run takes seconds, or longer while a trial uses the processor
NOT_ASKED_S = 600.0  # no further request for this time after a timeout
OFF_S = 3600.0  # no request for this time while the incumbent's own dry run is unknown
_KEPT_S = 600
_LIMIT_S = 120


class DryRuns:
    """Requests dry runs over `bus`.

    `files` returns the subject's files; each candidate replaces only train.py. `publish_status` publishes the worker's
    state.
    """

    def __init__(
        self,
        bus: RedisClient,
        profile: Profile,
        files: Callable[[], Mapping[str, str]],
        publish_status: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bus = bus
        self._queue = bus.queue(DRY_RUNS)
        self._profile = profile
        self._files = files
        self._publish_status = publish_status
        self._clock = clock
        self._silent_until = 0.0
        self._away: str | None = None
        self._off_for: str | None = None
        self._off_until = 0.0
        self._said_off = False

    def reject_failing(self, source: str, incumbent: str, tick: Callable[[], None]) -> None:
        """Dry-run the `source`, and raise Rejected if it fails and the source `incumbent` passes.

        Waits for the results. If the incumbent's own result is unknown, no dry run says anything about its candidates,
        and none is asked for until there is another incumbent, or for OFF_S, since the worker may have been disturbed.
        The command of a user's own task has no dry run.
        """
        if self._profile.task is not None:
            return
        if incumbent == self._off_for and self._clock() < self._off_until:
            return
        found = self._ask(source, tick)
        if found is None or found.verdict is DryRunVerdict.PASSES:
            return
        own = self._ask(incumbent, tick)
        if own is None:
            return
        self._switch(incumbent, own)
        if found.verdict is DryRunVerdict.FAILS and own.verdict is DryRunVerdict.PASSES:
            where = "" if found.line is None else f" in line {found.line}"
            raise Rejected(f"train.py would fail before its first step is done{where}: {found.reason}")

    def _switch(self, incumbent: str, own: DryRunResult) -> None:
        """Switch dry runs off for an incumbent whose own is unknown, else on. The first time is logged."""
        if own.verdict is not DryRunVerdict.UNKNOWN:
            if self._off_for is not None:
                self._off_for = None
                self._publish_status("")
            return
        self._off_for, self._off_until = incumbent, self._clock() + OFF_S
        self._publish_status(f"off: the one of the incumbent is unknown ({own.reason})")
        if not self._said_off:
            logger.warning("dry runs are off: the one of the incumbent is unknown (%s)", own.reason)
        self._said_off = True

    def _ask(self, source: str, tick: Callable[[], None]) -> DryRunResult | None:
        """Return the result of a dry run, or None if the worker does not answer, which is reported."""
        if self._clock() < self._silent_until:
            return None
        workers = self._bus.workers(WorkerRole.DRY_RUN_WORKER)
        if all(worker.status.kind is StatusKind.HELD for worker in workers):
            self._note(f"the dry-run worker is {workers[0].status}" if workers else "no dry-run worker runs")
            return None
        caps = self._profile.caps
        cap_mib = caps.memory_mib if caps.vram_mib is None else caps.vram_mib
        spec = DryRunSpec(self._profile.name, {**self._files(), "train.py": source}, cap_mib)
        self._hand_in(spec)
        answer = self._wait_for(spec.id, tick)
        if isinstance(answer, str):
            self._note(answer)
            return None
        self._note(None)
        logger.info("%s: %s, %.1f s: %s", spec.id[:14], answer.verdict, answer.seconds, answer.reason)
        return answer

    def _hand_in(self, spec: DryRunSpec) -> None:
        """Enqueue a dry run. A repeated request for the same source gets the stored result for a while."""
        try:
            self._queue.enqueue_call(
                RUN_DRY_RUN,
                args=(spec.to_json(),),
                job_id=spec.id,
                unique=True,
                timeout=_LIMIT_S,
                result_ttl=_KEPT_S,
                failure_ttl=1,
                description=spec.id,
            )
        except DuplicateJobError:
            return

    def _wait_for(self, job_id: str, tick: Callable[[], None]) -> DryRunResult | str:
        """Return the result, or the reason for its absence."""
        give_up = self._clock() + WAIT_S
        while self._clock() < give_up:
            tick()
            try:
                job = self._bus.fetch(job_id)
                status, result = job.get_status(), job.latest_result(timeout=1)
            except (NoSuchJobError, InvalidJobOperation):
                return "a dry run was lost"
            except Unreadable as fault:
                return f"a dry run cannot be read: {fault}"
            if status is JobStatus.FAILED:
                return "a dry run failed in its worker"
            if result is not None and isinstance(result.return_value, dict):
                return DryRunResult.from_json(result.return_value)
        self._silent_until = self._clock() + NOT_ASKED_S
        return f"the dry-run worker did not answer within {WAIT_S:g} s"

    def _note(self, away: str | None) -> None:
        """Report the beginning and the end of an absence."""
        if away != self._away:
            self._publish_status(
                "" if away is None else f"none: {away}; candidates go to their trials without a dry run"
            )
            if away is None:
                logger.info("the dry-run worker answers again")
            else:
                logger.warning("%s: candidates go to their trials without a dry run", away)
        self._away = away
