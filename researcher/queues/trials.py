"""The queue of trials: it enqueues trials and polls their results. RQ carries the work and decides nothing.

A trial's id names one attempt and is enqueued with `unique=True`, so it runs once even if requested twice. Anything but
the trainer's own result (an abandoned job, a failure in RQ, a result of other work) is an infrastructure failure.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from rq.exceptions import DuplicateJobError, InvalidJobOperation, NoSuchJobError
from rq.job import Job, JobStatus
from rq.registry import StartedJobRegistry

from trainer.jobs import (
    RUN_TRIAL,
    TRIALS,
    AllowlistedJob,
    Outcome,
    RedisClient,
    TrialResult,
    TrialSpec,
    Unreadable,
    results_key,
)

_RQ_GRACE_S = 120


@dataclass(frozen=True)
class Waiting:
    """The attempt is queued or running."""


@dataclass(frozen=True)
class Absent:
    """The queue does not have the attempt; enqueue it under the same id."""


@dataclass(frozen=True)
class JobFault:
    """The attempt is lost through an infrastructure failure; `reason` describes it."""

    reason: str


class TrialQueue:
    """The researcher's side of the queue `trials`. It writes no results, not even for an abandoned attempt."""

    def __init__(self, bus: RedisClient, leases_count: Callable[[], bool] = lambda: True) -> None:
        """Open the queue. `leases_count` returns False while a clock jump makes the end of leases uncertain."""
        self._bus = bus
        self._leases_count = leases_count
        self._queue = bus.queue(TRIALS)
        self._started = StartedJobRegistry(queue=self._queue, job_class=AllowlistedJob)

    def hand_out(self, spec: TrialSpec) -> None:
        """Enqueue an attempt once, however often it is called.

        RQ's retry is not used, because it cannot distinguish a bad candidate from a lost machine.
        """
        try:
            self._queue.enqueue_call(
                RUN_TRIAL,
                args=(spec.to_json(),),
                job_id=spec.id,
                unique=True,
                timeout=int(spec.budget.wall_limit_s + spec.budget.replica_limit_s) + _RQ_GRACE_S,
                result_ttl=-1,
                failure_ttl=-1,
                description=spec.id,
            )
        except DuplicateJobError:
            return  # already enqueued: after a restart, or a resent command whose first reply was lost

    def poll(self, trial: str, spec_digest: str) -> TrialResult | Waiting | Absent | JobFault:
        """Poll an attempt. Only a readable result of the work with `spec_digest` counts."""
        try:
            return self._poll(trial, spec_digest)
        except NoSuchJobError:
            return Absent()
        except InvalidJobOperation:  # the server lost its keys after the job was fetched
            self._bus.connection.delete(AllowlistedJob.key_for(trial))
            return Absent()
        except Unreadable as fault:
            return JobFault(f"the attempt cannot be read: {fault}")

    def _poll(self, trial: str, spec_digest: str) -> TrialResult | Waiting | Absent | JobFault:
        job = self._bus.fetch(trial)
        match job.get_status():
            case JobStatus.FINISHED:
                return _answer(job, spec_digest)
            case JobStatus.QUEUED:
                return Waiting() if self._is_listed(trial) else self._withdraw(job)
            case JobStatus.STARTED:
                is_abandoned = trial in self._started.get_expired_job_ids() and self._leases_count()
                return JobFault("the trainer fell silent and its lease has ended") if is_abandoned else Waiting()
            case status:
                result = job.latest_result()
                detail = (result.exc_string or "").strip().splitlines()[-1:] if result else []
                return JobFault(f"the job is {status.value}" + (f": {detail[0]}" if detail else ""))

    def wait(self, trial: str) -> None:
        """Return when the attempt has a result, or after a second."""
        with contextlib.suppress(NoSuchJobError, Unreadable):
            self._bus.fetch(trial).latest_result(timeout=1)

    def forget(self, trial: str) -> None:
        """Delete an attempt after the journal has recorded its result."""
        try:
            job = self._bus.fetch(trial)
            # RQ's delete fails for a listed execution that no longer exists, and the end of a lease deletes executions.
            self._bus.connection.delete(job.execution_registry.key)
            job.delete()
        except NoSuchJobError:
            return
        except (Unreadable, InvalidJobOperation):  # the second one if the server lost its keys meanwhile
            self._bus.connection.delete(AllowlistedJob.key_for(trial), results_key(trial))

    def _is_listed(self, trial: str) -> bool:
        listed = [*self._queue.get_job_ids(), *self._queue.intermediate_queue.get_job_ids()]
        return trial in listed or trial in self._started.get_job_ids(cleanup=False)

    def _withdraw(self, job: Job) -> Absent | Waiting:
        """Delete a queued job that is in no list, because it is lost.

        A worker may have moved it between the two polls; then it is still waiting.
        """
        if job.get_status(refresh=True) is not JobStatus.QUEUED or self._is_listed(job.id):
            return Waiting()
        job.delete()
        return Absent()


def _answer(job: Job, spec_digest: str) -> TrialResult | JobFault:
    result = job.latest_result()
    if result is None or not isinstance(result.return_value, dict):
        return JobFault("the job finished without an answer")
    answer = TrialResult.from_json(result.return_value)
    if answer.outcome is Outcome.LOST:
        return JobFault(answer.reason)
    if answer.spec_digest != spec_digest:
        return JobFault("the answer belongs to other work of the same name")
    return answer
