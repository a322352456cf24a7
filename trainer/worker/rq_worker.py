"""The RQ worker: one queue, JSON, a fixed table of functions, and one supervising fork for each job.

Promises: a job can name no other function, object or callback. SIGTERM and Ctrl-C end a running trial as `preempted`, a
dry run as `unknown`, and the worker with exit code 0. Processes and files of a killed fork are removed. The module
imports no torch.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType
from typing import Any, ClassVar, TypeVar

import redis
from rq import Queue, Worker
from rq.executions import Execution
from rq.job import Job
from rq.serializers import JSONSerializer

from trainer.jobs import (
    DRY_RUNS,
    RUN_DRY_RUN,
    RUN_TRIAL,
    TRIALS,
    AllowlistedJob,
    JobQueue,
    LeaseStore,
    Status,
    StatusKind,
    WorkerRole,
)
from trainer.sandbox import syscalls
from trainer.sandbox.cleanup import clear_all
from trainer.sandbox.paths import WorkerConfig
from trainer.trial import disk_space, gpu_watch
from trainer.worker.heartbeat import IDLE, Heartbeat
from trainer.worker.job_functions import request_stop, run_dry_run, run_trial, stop_requested

log = logging.getLogger(__name__)
Written = TypeVar("Written")

SINGLE_HOST_LEASE_S = 20
_PATIENCE_S = 10.0
_LOG_EVERY_S = 60.0
_LOOK_AGAIN_S = 1.0
_BUSY = Status.working("a job runs")
NO_MEMORY = "Redis has used up its memory. Next: raise its maxmemory, or remove what fills it; then it goes on"


class TrialJob(AllowlistedJob):
    """A job that can only run a trial."""

    functions: ClassVar = {RUN_TRIAL: run_trial}
    works = TRIALS


class DryRunJob(AllowlistedJob):
    """A job that can only run a dry run."""

    functions: ClassVar = {RUN_DRY_RUN: run_dry_run}
    works = DRY_RUNS


JOBS: dict[WorkerRole, type[AllowlistedJob]] = {WorkerRole.TRAINER: TrialJob, WorkerRole.DRY_RUN_WORKER: DryRunJob}


@contextlib.contextmanager
def _ends_if_refused() -> Iterator[None]:
    """Turn a refused password into SystemExit(1), after which RQ ends the worker without a traceback.

    RQ would retry a refused password for ever. The next start of the worker reads the password again.
    """
    try:
        yield
    except redis.AuthenticationError:
        raise SystemExit(1) from None


class OneQueueWorker(Worker):
    """A worker of the role that its heartbeat shows.

    With `single_host`, researcher and worker share a clock, so a lease of 20 s is enough. RQ's own lease is 65 s, which
    covers the difference between the clocks of two machines.
    """

    def __init__(
        self, connection: redis.Redis, heartbeat: Heartbeat, config: WorkerConfig, *, single_host: bool
    ) -> None:
        self._heartbeat = heartbeat
        self._config = config
        self._single_host = single_host
        self._stopping_s: float | None = None
        self._logged_full_s: float | None = None
        self._status = IDLE
        self._parent = os.getpid()
        job = JOBS[heartbeat.role]
        assert job.works is not None
        super().__init__(
            [job.works],
            name=heartbeat.worker,
            connection=connection,
            job_class=job,
            queue_class=JobQueue,
            serializer=JSONSerializer,
            worker_ttl=30,
            job_monitoring_interval=5,
            maintenance_interval=15,
            log_job_description=False,
        )

    def _install_signal_handlers(self) -> None:
        super()._install_signal_handlers()  # type: ignore[no-untyped-call]
        signal.signal(signal.SIGUSR1, request_stop)  # before any fork, so that no fork is ever without it

    def setup_work_horse_signals(self) -> None:
        """In the fork: ignore Ctrl-C, stop the running job on SIGTERM, and die with the parent.

        If a candidate's guardian is killed, its processes become children of this fork, which ends them afterwards.
        """
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, request_stop)
        syscalls.die_with_parent(signal.SIGKILL, self._parent)
        syscalls.become_subreaper()

    def fork_work_horse(self, job: Job, queue: Queue) -> None:
        """Fork, and pass on a stop request that arrived before the pid of the fork was known."""
        super().fork_work_horse(job, queue)
        if self._stop_requested:
            self._preempt()

    def handle_warm_shutdown_request(self) -> None:
        """Preempt the running job on the first SIGTERM or SIGINT, and exit after _PATIENCE_S seconds at the latest."""
        self._stopping_s = time.monotonic()
        log.info("stopping%s", ", what runs ends as preempted" if self.horse_pid else "")
        self._preempt()
        last_word = threading.Timer(_PATIENCE_S, _leave)
        last_word.daemon = True
        last_word.start()

    def request_force_stop(self, signum: int, frame: FrameType | None) -> None:
        """Let RQ kill the fork on a repeated signal, once the job has had _PATIENCE_S seconds to end as preempted."""
        if self._stopping_s is None or time.monotonic() - self._stopping_s > _PATIENCE_S:
            super().request_force_stop(signum, frame)

    def handle_work_horse_killed(self, job: Job, retpid: int, ret_val: int, rusage: Any) -> None:
        """Remove processes and files of a killed fork. The guardian does so as well; this call makes sure of it."""
        log.error("%s: its supervisor was killed (wait status %s)", job.id, ret_val)
        clear_all(self._config.work, self._config.user)

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:
        """Return the seconds without a heartbeat after which a job counts as abandoned."""
        return SINGLE_HOST_LEASE_S if self._single_host else int(super().get_heartbeat_ttl(job, working_time))

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Job, Queue] | None:
        """Take the next job once the disks have room for it and nothing foreign is on the GPU.

        Return None if the worker is stopping.
        """
        disk_space.wait_for(self._config.disks, self._hold)
        if self._heartbeat.gpu is not None:
            gpu_watch.wait_until_alone(partial(self._why_not_alone, self._heartbeat.gpu), self._hold)
        self._status = IDLE
        while not self._stop_requested:
            try:
                with _ends_if_refused():
                    return super().dequeue_job_and_maintain_ttl(timeout, max_idle_time)
            except redis.OutOfMemoryError:
                self._wait_for_memory()
        return None

    def check_for_suspension(self, burst: bool) -> None:
        """Check as RQ does, once Redis has the memory for the heartbeat that RQ sends with the question."""
        check = super().check_for_suspension
        with contextlib.suppress(redis.OutOfMemoryError), _ends_if_refused():  # suppressed if the worker is stopping
            self._once_there_is_memory(lambda: check(burst))

    def _wait_for_memory(self) -> None:
        """Sleep for a second, and log once a minute why.

        Redis without memory refuses writes but still deletes, so other clients can make room.
        """
        if self._logged_full_s is None or time.monotonic() - self._logged_full_s > _LOG_EVERY_S:
            self._logged_full_s = time.monotonic()
            log.error("HELD: %s", NO_MEMORY)
        self._beat()
        time.sleep(_LOOK_AGAIN_S)

    def run_maintenance_tasks(self) -> None:
        """Run RQ's maintenance, or skip it while Redis has no memory."""
        with contextlib.suppress(redis.OutOfMemoryError), _ends_if_refused():
            super().run_maintenance_tasks()  # type: ignore[no-untyped-call]
            self._heartbeat.forget_vanished()

    def maintain_heartbeats(self, job: Job, execution: Execution) -> None:
        """Renew the job's lease. While Redis has no memory the job continues; at worst its lease ends and the trial is
        measured again.
        """
        try:
            super().maintain_heartbeats(job, execution)
        except redis.OutOfMemoryError:
            log.warning("%s: the heartbeat could not be sent: %s", job.id, NO_MEMORY)

    def prepare_execution(self, job: Job) -> Execution:
        """Record the execution of a job that was taken, once Redis has the memory for it."""
        prepare = super().prepare_execution

        def record() -> Execution:
            self.executions.clear()  # the execution of a refused record
            return prepare(job)

        return self._once_there_is_memory(record)

    def prepare_job_execution(self, job: Job, remove_from_intermediate_queue: bool = False) -> None:
        """In the fork: begin a job once Redis has the memory to record its beginning."""
        begin = super().prepare_job_execution
        self._once_there_is_memory(lambda: begin(job, remove_from_intermediate_queue))

    def handle_execution_ended(self, job: Job, queue: Queue, heartbeat_ttl: int) -> None:
        """In the fork: record the end of a job once Redis has the memory for it."""
        end = super().handle_execution_ended
        self._once_there_is_memory(lambda: end(job, queue, heartbeat_ttl))

    def handle_job_success(self, job: Job, queue: Queue, started_job_registry: Any, execution: Execution) -> None:
        """In the fork: store a job's answer once Redis has the memory for it, unless the worker is stopping."""
        succeed = super().handle_job_success
        self._once_there_is_memory(lambda: succeed(job, queue, started_job_registry, execution))

    def _once_there_is_memory(self, write: Callable[[], Written]) -> Written:
        """Repeat a write until Redis has the memory for it. Raise OutOfMemoryError if the worker is stopping."""
        while True:
            try:
                return write()
            except redis.OutOfMemoryError:
                if self._stop_requested or stop_requested():
                    raise
                self._wait_for_memory()

    def _why_not_alone(self, gpu: str) -> str | None:
        with _ends_if_refused():
            lease = LeaseStore(self.connection, gpu).read().lease
        return gpu_watch.why_not_alone(lease.llm_mib if lease.answer is None else None, os.getpid())

    def _hold(self, words: str) -> bool:
        self._status = Status(StatusKind.HELD, words)
        self.heartbeat()
        return not self._stop_requested

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Run a job. If Redis refuses the password afterwards, the worker ends; a trial's result is already on disk."""
        try:
            with _ends_if_refused():
                super().execute_job(job, queue)
        except redis.OutOfMemoryError:
            log.error("%s: the result could not be sent: %s", job.id, NO_MEMORY)

    def heartbeat(self, timeout: int | None = None, pipeline: Any = None) -> None:
        """Send RQ's heartbeat, and show the worker's status while no job runs. A running job's fork shows its own."""
        self._beat()
        try:
            with _ends_if_refused():
                super().heartbeat(timeout, pipeline)
        except redis.OutOfMemoryError:
            return  # `_wait_for_memory` logs it
        if not self.is_horse and not self.horse_pid:
            self._heartbeat.show(self._status)

    def _beat(self) -> None:
        """Write the heartbeat file, also while a job runs. A fork does not, since it would hide a frozen worker."""
        if not self.is_horse:
            self._heartbeat.beat(_BUSY if self.horse_pid else self._status)

    def teardown(self) -> None:
        """Deregister the worker. If Redis has no memory for that, the registration expires by itself."""
        with contextlib.suppress(redis.OutOfMemoryError):
            super().teardown()  # type: ignore[no-untyped-call]
        if not self.is_horse:
            self._heartbeat.fade()

    def _preempt(self) -> None:
        if self.horse_pid:
            try:
                os.kill(self.horse_pid, signal.SIGUSR1)
            except ProcessLookupError:
                return


def _leave() -> None:
    """Exit although the shutdown has not finished. Without a stop request, the worker would wait ten minutes for Redis.

    The fork dies with this process.
    """
    log.error("the shutdown did not finish within %.0f s because Redis does not answer; exiting", _PATIENCE_S)
    os._exit(1)
