"""The functions that a job may name: `run_trial` for a trainer, `run_dry_run` for a dry-run worker.

Promises: the answer is always a `TrialResult` or a `DryRunResult` as JSON. The answer to a malformed spec names the
field. Folders come from the worker process, which sets them before it forks, never from the job.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from trainer.jobs import (
    DryRunResult,
    DryRunSpec,
    DryRunVerdict,
    Outcome,
    Status,
    TrialResult,
    TrialSpec,
    WorkerRole,
    connect,
)
from trainer.sandbox.guardian import kill_tree
from trainer.sandbox.paths import WorkerConfig
from trainer.trial import dry_run, trial
from trainer.worker.heartbeat import Heartbeat, Publisher

log = logging.getLogger(__name__)

DRY_RUNNING = Status.working("dry run")


@dataclass(frozen=True)
class WorkerState:
    """The settings of this worker process: its folders, its Redis, and its role."""

    config: WorkerConfig
    worker: str
    redis_url: str
    password: str | None
    profile: str | None = None
    refused: Callable[[], int] = int
    no_user: str | None = None
    role: WorkerRole = WorkerRole.TRAINER

    def heartbeat(self) -> Heartbeat:
        """Return the worker's heartbeat, on a connection of its own that does not wait for Redis."""
        impatient = connect(self.redis_url, password=self.password, patient=False)
        cap_mib = self.config.vram_cap_mib
        return Heartbeat(impatient, self.worker, self.profile, cap_mib, self.refused, self.no_user, self.role)


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
        result = trial.run_trial(spec, worker_state.config, news.report, _stop_requested.is_set)
    finally:
        news.close()
        kill_tree()
    log.info("%s: %s in %.1f s: %s", spec.id, result.outcome, result.finished_at - result.started_at, result.reason)
    return result.to_json()


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
    now = time.time()
    return TrialResult(
        id=str(named),
        spec_digest="",
        outcome=Outcome.LOST,
        reason=f"the spec does not fit this trainer: {faults}",
        started_at=now,
        finished_at=now,
        worker=worker,
    )


def _faults(fault: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, each['loc'])) or 'spec'}: {each['msg']}" for each in fault.errors()[:5])
