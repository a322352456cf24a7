"""A trainer without training: it answers trials at once, by marks in the candidate's source.

The score is the knob LEVEL plus noise drawn from the trial's seed. `# fate: crashed` (or another outcome) gives the
outcome, `# fate of drift: crashed` only in trials of that kind; `# says: words` gives the reason; `# luck: 0.1` lowers
the score of the first trial; `# known: 0.1` makes the unseen score worse by this; `# accident: crashed 1` ends the
first measurement of every trial so and reports that the cause may have come from outside (`# accident of drift: ...`
only in trials of that kind), `# stumble: crashed 1` does the same without this report, `# lost of confirm: 2` loses the
first two attempts; `# slow: 2` (or fast) reports a slow machine in the first two attempts of every trial, and `#
steady` reports that the training was as fast as ever; `# overlap: 2` reports an answer of the LLM in the timed phase of
the first two measurements, and `# hot: 2` a GPU that is too hot in them. It works on the real queue through RQ, with
the contract's types, in a process of its own: `python -m tests.doubles.scripted_trainer --redis URL [--password-file
FILE]`.
"""

from __future__ import annotations

import random
import re
import time
from typing import Any, ClassVar

from tests.doubles.scripted_worker import work
from trainer.jobs import (
    RUN_TRIAL,
    TRIALS,
    AllowlistedJob,
    GpuUse,
    Kind,
    Outcome,
    Timing,
    TrialResult,
    TrialSpec,
)

NOISE = 0.002
TRIAL_S = 0.01
SETUP_S = 1.5
STEPS = 100


def answer(spec_json: dict[str, Any]) -> dict[str, Any]:
    """Return the result of a scripted trial."""
    spec = TrialSpec.from_json(spec_json)
    source = spec.files["train.py"]
    outcome, disturbed = _fate(spec, source)
    score = None
    if outcome is Outcome.OK:
        level = re.search(r"^LEVEL = ([\d.]+)", source, re.MULTILINE)
        assert level is not None, "a scripted subject has a LEVEL"
        luck = re.search(r"# luck: ([\d.]+)", source) if spec.kind is Kind.FIRST else None
        seen = float(level.group(1)) - (float(luck.group(1)) if luck else 0.0)
        score = seen + random.Random(spec.seed).gauss(0, NOISE)
    speed = re.search(r"# (slow|fast): (\d+)", source)
    out_of_line = speed is not None and int(spec.id.rpartition("-a")[2]) < int(speed.group(2))
    says = re.search(r"# says: (.*)", source)
    took_s = {"slow": 0.15, "fast": 0.05}[speed.group(1)] if speed is not None and out_of_line else 0.1
    now = time.time()
    return TrialResult(
        id=spec.id,
        spec_digest=spec.digest,
        outcome=outcome,
        disturbed=disturbed,
        reason=says.group(1) if says else "as scripted",
        started_at=now,
        finished_at=now,
        timing=Timing(processor_s=TRIAL_S, timed=TRIAL_S, setup=SETUP_S),
        steps=STEPS if "# steady" in source else None,
        val_bpb=score,
        unseen_bpb=_unseen(score, source),
        wall_s=TRIAL_S,
        memory_mib=512.0,
        before_s=took_s,
        after_s=took_s,
        gpu_use=_gpu_use(spec, source),
    ).to_json()


def _fate(spec: TrialSpec, source: str) -> tuple[Outcome, str | None]:
    """Return the outcome of this attempt, and the reported cause from outside, if any."""
    attempt = int(spec.id.rpartition("-a")[2])

    def mark(name: str) -> str | None:
        marks = dict(re.findall(rf"# {name}(?: of (\w+))?: (\w+(?: \d+)?)", source))
        found: str | None = marks.get(spec.kind) or marks.get("")
        return found

    if attempt < int(mark("lost") or 0):
        return Outcome.LOST, None
    for name, disturbed in (("accident", "a signal that the trainer did not send"), ("stumble", None)):
        outcome, _, times = (mark(name) or "").partition(" ")
        if outcome and spec.repeat < int(times):
            return Outcome(outcome), disturbed
    return Outcome(mark("fate") or Outcome.OK), None


def _gpu_use(spec: TrialSpec, source: str) -> GpuUse:
    """Return how the LLM disturbed this measurement, and the clock of the GPU."""

    def is_marked(name: str) -> bool:
        found = re.search(rf"# {name}: (\d+)", source)
        return found is not None and spec.repeat < int(found.group(1))

    return GpuUse(
        llm_overlap_s=2.0 if is_marked("overlap") else 0.0,
        clock_mhz=1200.0 if is_marked("hot") else 1980.0,
        throttled=("thermal slowdown",) if is_marked("hot") else (),
    )


def _unseen(score: float | None, source: str) -> float | None:
    """Return an unseen score that is as far above the score as unseen text is; `# known: 0.1` adds to this
    difference."""
    known = re.search(r"# known: ([\d.]+)", source)
    return None if score is None else score + 0.1 + (float(known.group(1)) if known else 0.0)


class ScriptedJob(AllowlistedJob):
    """A job that returns a scripted answer."""

    functions: ClassVar = {RUN_TRIAL: answer}


if __name__ == "__main__":
    work(TRIALS, ScriptedJob)
