"""The functions that a job may name: `run_trial` for a trainer, `run_dry_run` for a dry-run worker.

Promises: the answer is always a `TrialResult` or a `DryRunResult` as JSON. The answer to a malformed spec names the
field. Folders come from the worker process, which sets them before it forks, never from the job.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from trainer.jobs import (
    UNNAMED_GPU,
    DryRunResult,
    DryRunSpec,
    DryRunVerdict,
    GpuTaken,
    LeaseStore,
    Outcome,
    Progress,
    Status,
    TrialResult,
    TrialSpec,
    WorkerRole,
    connect,
)
from trainer.sandbox.guardian import kill_tree
from trainer.sandbox.paths import WorkerConfig
from trainer.trial import dry_run, gpu_watch, trial
from trainer.trial.run import vram_mib
from trainer.worker.gpu_hold import LOCKS, GpuHold, held_gpu
from trainer.worker.heartbeat import Heartbeat, Publisher

log = logging.getLogger(__name__)

DRY_RUNNING = Status.working("dry run")


@dataclass(frozen=True)
class WorkerState:
    """The settings of this worker process: its folders, its Redis, and its role.

    `gpu` is the UUID of its GPU, None without one, and `locks` the folder of the host's locks.
    """

    config: WorkerConfig
    worker: str
    redis_url: str
    password: str | None
    profile: str | None = None
    refused: Callable[[], int] = int
    no_user: str | None = None
    role: WorkerRole = WorkerRole.TRAINER
    gpu: str | None = None
    locks: Path = LOCKS

    def heartbeat(self) -> Heartbeat:
        """Return the worker's heartbeat, on a connection of its own that does not wait for Redis."""
        impatient = connect(self.redis_url, password=self.password, patient=False)
        cap_mib = self.config.vram_cap_mib
        return Heartbeat(
            impatient, self.worker, self.profile, cap_mib, self.refused, self.no_user, self.role, gpu=self.gpu
        )


class NotConfigured(RuntimeError):
    """Raised when a job runs in a process without a configured worker."""


_worker_state: WorkerState | None = None
_stop_requested = threading.Event()


def configure(worker_state: WorkerState) -> None:
    """Set this process's worker state. Call it once, before the worker forks."""
    global _worker_state  # noqa: PLW0603 - an RQ job gets nothing but its JSON, so the process holds the settings
    _worker_state = worker_state


def request_stop(*_: object) -> None:
    """Handle a signal: end the running trial as `preempted`, or the dry run as `unknown`, within tenths of a second."""
    _stop_requested.set()


def stop_requested() -> bool:
    """Return whether `request_stop` was called in this process."""
    return _stop_requested.is_set()


def run_trial(spec_json: dict[str, Any]) -> dict[str, Any]:
    """Run the trial of a spec and return its result, both as JSON. Called in a fork made for this job.

    No descendant of this process is left afterwards.
    """
    worker_state = _configured()
    try:
        spec = TrialSpec.from_json(spec_json)
    except ValidationError as fault:
        return _misfit(spec_json, fault, worker_state.worker).to_json()
    log.info("%s: started (%s, seed %d)", spec.id, spec.kind, spec.seed)
    news = Publisher(worker_state.heartbeat(), trial=spec.id)
    try:
        result = _run(spec, worker_state, news.report)
    finally:
        news.close()
        kill_tree()
    log.info("%s: %s in %.1f s: %s", spec.id, result.outcome, result.finished_at - result.started_at, result.reason)
    return result.to_json()


def _run(spec: TrialSpec, worker_state: WorkerState, report: Callable[[Progress], None]) -> TrialResult:
    """Run a trial, and hold its GPU meanwhile if it has one."""
    if spec.caps.vram_mib is None:
        return trial.run_trial(spec, worker_state.config, report, _stop_requested.is_set)
    connection = connect(worker_state.redis_url, password=worker_state.password, patient=False)
    store = LeaseStore(connection, worker_state.gpu or UNNAMED_GPU)
    try:
        with held_gpu(store, spec.id, _stop_requested.is_set, worker_state.locks) as hold:
            if (words := gpu_watch.why_not_alone(hold.llm_mib, os.getppid())) is not None:
                return _lost(spec.id, f"it was not begun: {words}", worker_state.worker)
            return _run_on_gpu(spec, worker_state, report, hold)
    except GpuTaken as taken:
        return _lost(spec.id, str(taken), worker_state.worker)


def _run_on_gpu(
    spec: TrialSpec, worker_state: WorkerState, report: Callable[[Progress], None], hold: GpuHold
) -> TrialResult:
    """Run a trial that holds its GPU. It is ended if it loses the lease, or holds more memory than its cap."""
    config = replace(worker_state.config, held_fds=(hold.lock_fd,))
    with gpu_watch.watched_gpu(os.getppid(), vram_mib(spec, config)) as watch:

        def report_to_all(progress: Progress) -> None:
            hold.report(progress)
            watch.report(progress)
            report(progress)

        def is_over() -> bool:
            return _stop_requested.is_set() or hold.is_fenced or watch.over_cap is not None

        result = trial.run_trial(spec, config, report_to_all, is_over, lambda: watch.use(hold.use()))
    if result.outcome is not Outcome.PREEMPTED or _stop_requested.is_set():
        return result
    if hold.is_fenced:
        return replace(result, outcome=Outcome.LOST, reason="it lost the GPU: its beats did not reach Redis in time")
    assert watch.over_cap is not None, "nothing else ends a trial here"
    disturbed = "other processes may have taken the memory of the GPU"
    return replace(result, outcome=Outcome.OUT_OF_MEMORY, reason=watch.over_cap, disturbed=disturbed)


def run_dry_run(spec_json: dict[str, Any]) -> dict[str, Any]:
    """Run the dry run of a spec and return its result, both as JSON. No descendant of this process is left."""
    worker_state = _configured()
    try:
        spec = DryRunSpec.from_json(spec_json)
    except ValidationError as fault:
        message = f"the spec does not fit this dry-run worker: {_faults(fault)}"
        log.error("%s", message)
        return DryRunResult("", DryRunVerdict.UNKNOWN, message, None, None, 0.0).to_json()
    worker_state.heartbeat().show(DRY_RUNNING)
    try:
        result = dry_run.run_dry_run(spec, worker_state.config, _stop_requested.is_set)
    finally:
        kill_tree()
    log.info("%s: %s in %.1f s: %s", spec.id, result.verdict, result.seconds, result.reason)
    return result.to_json()


def _configured() -> WorkerState:
    if _worker_state is None:
        raise NotConfigured("this process is no worker; start one with `python -m trainer`")
    return _worker_state


def _misfit(spec_json: object, fault: ValidationError, worker: str) -> TrialResult:
    """Return the result for a malformed spec. It is `lost`, because the candidate is not to blame."""
    named = spec_json.get("id") if isinstance(spec_json, dict) else None
    faults = _faults(fault)
    log.error("%s: the spec does not fit: %s", named, faults)
    return _lost(str(named), f"the spec does not fit this trainer: {faults}", worker)


def _lost(trial_id: str, reason: str, worker: str) -> TrialResult:
    """Return the result of an attempt that was not begun."""
    now = time.time()
    return TrialResult(
        id=trial_id,
        spec_digest="",
        outcome=Outcome.LOST,
        reason=reason,
        started_at=now,
        finished_at=now,
        worker=worker,
    )


def _faults(fault: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, each['loc'])) or 'spec'}: {each['msg']}" for each in fault.errors()[:5])
