"""A dry-run worker without torch: it answers at once, by marks in train.py.

`# dry run: fails: words` (or passes, unknown) gives its verdict and reason, with the mark's line; without a mark the
dry run passes. `# dry run: dies` ends the worker's job without an answer. It works on the real queue in a process of
its own: `python -m tests.doubles.scripted_dry_runs --redis URL [--password-file FILE]`, and prints a line after its
first heartbeat.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

from redis import Redis

from tests.doubles.scripted_worker import work
from trainer.jobs import (
    DRY_RUNS,
    RUN_DRY_RUN,
    AllowlistedJob,
    DryRunResult,
    DryRunSpec,
    DryRunVerdict,
    WorkerRole,
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


def show(connection: Redis) -> None:
    """Give the first heartbeat, and print a line."""
    connection.hset(worker_key(WorkerRole.DRY_RUN_WORKER, NAME), "phase", "idle")
    connection.sadd(worker_names_key(WorkerRole.DRY_RUN_WORKER), NAME)
    print("shown", flush=True)


if __name__ == "__main__":
    work(DRY_RUNS, ScriptedJob, show)
