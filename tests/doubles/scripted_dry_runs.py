"""A dry-run worker without torch: it answers at once, by marks in train.py.

`# check: fails: words` (or passes, unknown) gives its verdict and reason, with the mark's line; without a mark the dry
run passes. `# check: dies` ends the worker's job without an answer. It works on the real queue in a process of its own:
`python -m tests.doubles.scripted_dry_runs --redis URL [--password-file FILE]`, and prints a line after its first
heartbeat.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any, ClassVar

from rq import SimpleWorker
from rq.serializers import JSONSerializer

from trainer.jobs import (
    DRY_RUNS,
    RUN_DRY_RUN,
    AllowlistedJob,
    DryRunResult,
    DryRunSpec,
    DryRunVerdict,
    WorkerRole,
    connect,
    worker_key,
    worker_names_key,
)

NAME = "dry-run-worker-scripted"


def answer(spec_json: dict[str, Any]) -> dict[str, Any]:
    """Return the result of a scripted dry run."""
    spec = DryRunSpec.from_json(spec_json)
    lines = spec.files["train.py"].splitlines()
    marks = [(number, found) for number, text in enumerate(lines, 1) if (found := re.search(r"# dry run: (.*)", text))]
    if not marks:
        return DryRunResult(spec.id, DryRunVerdict.PASSES, "one whole step", None, 1, 0.0).to_json()
    number, mark = marks[0]
    word, _, words = mark[1].partition(": ")
    if word == "dies":
        raise RuntimeError("as scripted")
    return DryRunResult(spec.id, DryRunVerdict(word), words, number, None, 0.0).to_json()


class ScriptedJob(AllowlistedJob):
    """A job that returns a scripted answer."""

    functions: ClassVar = {RUN_DRY_RUN: answer}


def main() -> None:
    """Work on the queue until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--redis", required=True)
    parser.add_argument("--password-file", type=Path)
    options = parser.parse_args()
    password = options.password_file.read_text().strip() if options.password_file else None
    connection = connect(options.redis, password=password)
    connection.hset(worker_key(WorkerRole.DRY_RUN_WORKER, NAME), "phase", "idle")
    connection.sadd(worker_names_key(WorkerRole.DRY_RUN_WORKER), NAME)
    print("shown", flush=True)
    SimpleWorker([DRY_RUNS], connection=connection, serializer=JSONSerializer, job_class=ScriptedJob).work(
        logging_level="WARNING"
    )


if __name__ == "__main__":
    main()
