"""The closed table of what a job may ask of a trainer: `run_trial`, nothing else.

Promises: a job's answer is always a `TrialResult` as JSON; a spec that does not fit names its field. The places come
from the worker process, set before it forks, never from the job.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from trainer import trial
from trainer.guardian import kill_tree
from trainer.jobs import RUN_TRIAL, Outcome, TrialResult, TrialSpec, connect
from trainer.places import Places
from trainer.presence import Presence, Publisher

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Station:
    """Where this process works, and the server it tells about it."""

    places: Places
    worker: str
    redis_url: str
    password: str | None
    profile: str | None = None
    refused: Callable[[], int] = int
    no_user: str | None = None


class NotStationed(RuntimeError):
    """A job ran in a process that no worker has set up."""


_station: Station | None = None
_told_to_stop = threading.Event()


def take_station(station: Station) -> None:
    """Set once, before the worker forks."""
    global _station  # noqa: PLW0603 - an RQ job gets nothing but its JSON, so the process must know its places
    _station = station


def tell_to_stop(*_: object) -> None:
    """A signal handler: the running trial ends as `preempted` within some tenths of a second."""
    _told_to_stop.set()


def run_trial(spec_json: dict[str, Any]) -> dict[str, Any]:
    """The job of the queue `trials`. Afterwards this process, a fork made for it, has no descendant left."""
    if _station is None:
        raise NotStationed("this process is no trainer; start one with `python -m trainer`")
    try:
        spec = TrialSpec.from_json(spec_json)
    except ValidationError as fault:
        return _misfit(spec_json, fault, _station.worker).to_json()
    log.info("%s: started (%s, seed %d)", spec.id, spec.kind, spec.seed)
    impatient = connect(_station.redis_url, password=_station.password, patient=False)
    cap_mib = _station.places.vram_cap_mib
    presence = Presence(impatient, _station.worker, _station.profile, cap_mib, _station.refused, _station.no_user)
    news = Publisher(presence, trial=spec.id)
    try:
        result = trial.run_trial(spec, _station.places, news.report, _told_to_stop.is_set)
    finally:
        news.close()
        kill_tree()
    log.info("%s: %s in %.1f s: %s", spec.id, result.outcome, result.finished_at - result.started_at, result.reason)
    return result.to_json()


FUNCTIONS: dict[str, Callable[..., dict[str, Any]]] = {RUN_TRIAL: run_trial}


def _misfit(spec_json: object, fault: ValidationError, worker: str) -> TrialResult:
    """The two sides disagree about what a spec is; that is no candidate's failure, so the outcome is `lost`."""
    named = spec_json.get("id") if isinstance(spec_json, dict) else None
    faults = "; ".join(f"{'.'.join(map(str, each['loc'])) or 'spec'}: {each['msg']}" for each in fault.errors()[:5])
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
