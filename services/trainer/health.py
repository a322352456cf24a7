"""The health check of the trainer and, with --dry-runs, of the dry-run worker: this container's own worker has a fresh
heartbeat in Redis, read with the worker's own rights."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import redis

from services.trainer.start import NAME_FILE
from trainer.jobs import RedisClient, WorkerRole, connect


def main(arguments: Sequence[str], name_file: Path) -> int:
    """Return 0 if the worker is healthy, else 1; print one line about it."""
    role = WorkerRole.DRY_RUN_WORKER if arguments == ["--dry-runs"] else WorkerRole.TRAINER
    password = Path(os.environ["REDIS_PASSWORD_FILE"]).read_text(encoding="utf-8").strip()
    try:
        name = name_file.read_text(encoding="utf-8")
        seen = RedisClient(connect(os.environ["REDIS_URL"], password=password, patient=False)).worker(role, name)
    except FileNotFoundError:
        print(f"no {role} has started here")
        return 1
    except redis.RedisError as error:
        print(f"Redis does not answer: {error}")
        return 1
    if seen is None:
        print(f"{name} has not shown itself in Redis lately")
        return 1
    print(f"{name}: {seen.status}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], NAME_FILE))
