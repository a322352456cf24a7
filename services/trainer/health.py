"""The health check of the trainer and, with --checks, of the dry-run worker: the worker's heartbeat in Redis is fresh,
read with the worker's own rights."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import redis

from trainer.jobs import RedisClient, connect


def main() -> int:
    """Return 0 if the worker is healthy, else 1; print one line about it."""
    checks = sys.argv[1:] == ["--checks"]
    password = Path(os.environ["REDIS_PASSWORD_FILE"]).read_text().strip()
    try:
        bus = RedisClient(connect(os.environ["REDIS_URL"], password=password, patient=False))
        seen = bus.checker() if checks else bus.trainer()
    except redis.RedisError as error:
        print(f"Redis does not answer: {error}")
        return 1
    if seen is None:
        print(f"no {'checker' if checks else 'trainer'} has shown itself in Redis lately")
        return 1
    print(f"{seen.worker}: {seen.status}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
