"""The contract between the researcher and a trainer, and the only package of the trainer that the researcher imports.

The researcher sends a `TrialSpec` and receives a `TrialResult`, both as JSON through RQ on Redis. A `Profile` describes
the trials that suit a GPU. Importing this package neither imports torch nor connects to Redis.

`spec`, `result`, `dry_run` and `profile` hold these values. `metric` converts between values and scores, and `task`
describes a repository of any other kind. `gpu_lease` decides who may use a GPU, and `lease_store` keeps that in Redis.
`bus` connects to Redis and holds the status of each process. `queue`,
`closed` and `bounded` make RQ safe against other clients, and `redaction` removes secrets from text. `environment`
builds the environment of every process that Overnight starts, and needs only the standard library.
"""

from trainer.jobs.bounded import BoundedJob, Unreadable, result_of, results_key
from trainer.jobs.bus import (
    REQUESTS,
    RUN_TRIAL,
    TRIALS,
    BusError,
    Progress,
    RedisClient,
    Status,
    StatusKind,
    WorkerRole,
    WorkerStatus,
    connect,
    worker_key,
    worker_names_key,
)
from trainer.jobs.closed import AllowlistedJob, NotInTable, unknown_jobs_text
from trainer.jobs.dry_run import DRY_RUNS, RUN_DRY_RUN, DryRunResult, DryRunSpec, DryRunVerdict
from trainer.jobs.gpu_lease import HOLD_S, Fenced, GpuLease, GpuTaken, LeasePhase, LlmAnswer, Span
from trainer.jobs.lease_store import UNNAMED_GPU, LeaseStore, Reading, lease_key
from trainer.jobs.metric import BITS_PER_BYTE, CLAIMED_BY, Degree, Direction, Metric, share_of
from trainer.jobs.profile import PROFILES, Profile, ProfileError, profile_named
from trainer.jobs.queue import JobQueue, is_id
from trainer.jobs.result import (
    Calibration,
    Device,
    GpuUse,
    LossPoint,
    Measurements,
    Outcome,
    Timing,
    TrialLog,
    TrialResult,
    Trust,
)
from trainer.jobs.spec import (
    JUMP_SHARE,
    SOURCE_LIMIT_BYTES,
    TRAIN_LIMIT_BYTES,
    Budget,
    Caps,
    Clock,
    Kind,
    TrialSpec,
    files_digest,
    trial_id,
)

__all__ = [
    "BITS_PER_BYTE",
    "CLAIMED_BY",
    "DRY_RUNS",
    "HOLD_S",
    "JUMP_SHARE",
    "PROFILES",
    "REQUESTS",
    "RUN_DRY_RUN",
    "RUN_TRIAL",
    "SOURCE_LIMIT_BYTES",
    "TRAIN_LIMIT_BYTES",
    "TRIALS",
    "UNNAMED_GPU",
    "AllowlistedJob",
    "BoundedJob",
    "Budget",
    "BusError",
    "Calibration",
    "Caps",
    "Clock",
    "Degree",
    "Device",
    "Direction",
    "DryRunResult",
    "DryRunSpec",
    "DryRunVerdict",
    "Fenced",
    "GpuLease",
    "GpuTaken",
    "GpuUse",
    "JobQueue",
    "Kind",
    "LeasePhase",
    "LeaseStore",
    "LlmAnswer",
    "LossPoint",
    "Measurements",
    "Metric",
    "NotInTable",
    "Outcome",
    "Profile",
    "ProfileError",
    "Progress",
    "Reading",
    "RedisClient",
    "Span",
    "Status",
    "StatusKind",
    "Timing",
    "TrialLog",
    "TrialResult",
    "TrialSpec",
    "Trust",
    "Unreadable",
    "WorkerRole",
    "WorkerStatus",
    "connect",
    "files_digest",
    "is_id",
    "lease_key",
    "profile_named",
    "result_of",
    "results_key",
    "share_of",
    "trial_id",
    "unknown_jobs_text",
    "worker_key",
    "worker_names_key",
]
