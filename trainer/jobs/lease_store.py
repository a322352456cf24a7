"""Keeps the lease of a GPU in Redis: each change is one optimistic transaction on one key, at the server's time.

If two clients change a lease at once, one of the transactions fails, and its change is decided again from the new
state. No script is used, as no user may run one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, cast

import redis
from pydantic import TypeAdapter

from trainer.jobs.gpu_lease import GpuLease

Change = Callable[[GpuLease, float], GpuLease]
UNNAMED_GPU = "gpu"  # where the driver tells no UUID

_ADAPTER = TypeAdapter(GpuLease)


class Reading(NamedTuple):
    """A lease, and the server's time in seconds at which it was read."""

    lease: GpuLease
    at: float


def lease_key(gpu: str) -> str:
    """Return the key of the lease of a GPU."""
    return f"overnight:gpu:{gpu}"


class LeaseStore:
    """The lease of one GPU. Methods raise redis.RedisError if the server does not answer."""

    def __init__(self, connection: redis.Redis, gpu: str) -> None:
        self.gpu = gpu
        self._connection = connection

    def read(self) -> Reading:
        """Return the present lease."""
        return Reading(_parsed(self._connection.get(lease_key(self.gpu))), _seconds(self._connection.time()))

    def change(self, change: Change) -> Reading:
        """Store the state that `change` returns for the present one and the present time, and return it.

        Raises what `change` raises; then nothing is stored.
        """
        key = lease_key(self.gpu)
        while True:
            with self._connection.pipeline() as pipeline:
                try:
                    pipeline.watch(key)  # type: ignore[no-untyped-call]
                    at = _seconds(pipeline.time())
                    changed = change(_parsed(pipeline.get(key)), at)
                    pipeline.multi()
                    pipeline.set(key, _ADAPTER.dump_json(changed))
                    pipeline.execute()
                except redis.WatchError:
                    continue
                return Reading(changed, at)


def _parsed(raw: object) -> GpuLease:
    return GpuLease() if raw is None else _ADAPTER.validate_json(cast(bytes, raw))


def _seconds(time: object) -> float:
    seconds, microseconds = cast(tuple[int, int], time)
    return seconds + microseconds / 1e6
