"""The main of a scripted worker: `--redis URL [--password-file FILE]` name the server of the queue it works on."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from redis import Redis
from rq import SimpleWorker
from rq.serializers import JSONSerializer

from trainer.jobs import AllowlistedJob, connect


def work(queue: str, job_class: type[AllowlistedJob], show: Callable[[Redis], None] | None = None) -> None:
    """Work on the queue until killed, after a call of `show` with the connection."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--redis", required=True)
    parser.add_argument("--password-file", type=Path)
    options = parser.parse_args()
    password = options.password_file.read_text().strip() if options.password_file else None
    connection = connect(options.redis, password=password)
    if show is not None:
        show(connection)
    worker = SimpleWorker([queue], connection=connection, serializer=JSONSerializer, job_class=job_class)
    worker.work(logging_level="WARNING")
