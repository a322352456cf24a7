"""From what was observed to an outcome and a sentence for a person. Pure: values in, values out.

Promises: every way a candidate can end has exactly one outcome. Does not cover the machine's own failures before the
candidate was started.
"""

from __future__ import annotations

import math
import re
import signal
from dataclasses import dataclass

from trainer.jobs import Outcome
from trainer.launch import Ending

PRINTED_TOLERANCE = 1e-3
_MEMORY = re.compile(r"MemoryError|OutOfMemoryError|CUDA out of memory|can't allocate memory|not enough memory")


@dataclass(frozen=True)
class Stop:
    """Why the supervisor ended a candidate."""

    outcome: Outcome
    reason: str


@dataclass(frozen=True)
class Observed:
    """How a candidate ended. `ending` is None when its guardian was killed; `bpb` is ours, `printed_bpb` its claim."""

    stop: Stop | None
    ending: Ending | None
    asked_for_score: bool
    bpb: float | None
    printed_bpb: float | None
    last_lines: tuple[str, ...]
    kernel_oom_kills: int = 0


def judge(observed: Observed) -> Stop:
    """The outcome, and why in one sentence."""
    if observed.stop is not None:
        return observed.stop
    ending = observed.ending
    if ending is None:
        return Stop(Outcome.CRASHED, "its guardian process was killed, so the trial was ended")
    if ending.ended_by == "wall limit":
        return Stop(Outcome.TIMED_OUT, "it was ended by the guardian's wall limit")
    if ending.signal is not None:
        return _killed(ending.signal, observed)
    if ending.exit_code != 0:
        return _failed(ending.exit_code, observed)
    return _scored(observed)


def printed_agrees(bpb: float, printed_bpb: float) -> bool:
    """True when the printed number is ours, as far as printing goes."""
    return math.isfinite(printed_bpb) and abs(bpb - printed_bpb) <= PRINTED_TOLERANCE


def _killed(number: int, observed: Observed) -> Stop:
    if number == signal.SIGKILL and observed.kernel_oom_kills:
        return Stop(Outcome.OUT_OF_MEMORY, "the kernel killed it when the machine or container ran out of memory")
    return Stop(Outcome.CRASHED, f"killed by {signal.Signals(number).name}{_last_line(observed)}")


def _failed(exit_code: int | None, observed: Observed) -> Stop:
    if any(_MEMORY.search(line) for line in observed.last_lines):
        return Stop(Outcome.OUT_OF_MEMORY, f"out of memory{_last_line(observed)}")
    return Stop(Outcome.CRASHED, f"exit code {exit_code}{_last_line(observed)}")


def _scored(observed: Observed) -> Stop:
    if observed.bpb is None:
        did = "ended while it was being scored" if observed.asked_for_score else "ended without asking for its score"
        return Stop(Outcome.UNSCORABLE, f"it {did}; train.py must call evaluate_bpb(model, tokenizer, batch_size)")
    if observed.printed_bpb is not None and not printed_agrees(observed.bpb, observed.printed_bpb):
        return Stop(
            Outcome.UNSCORABLE,
            f"it printed val_bpb {observed.printed_bpb:.6f}, the trainer measured {observed.bpb:.6f}",
        )
    return Stop(Outcome.OK, f"val_bpb {observed.bpb:.6f}")


def _last_line(observed: Observed) -> str:
    return f": {observed.last_lines[-1].strip()[:300]}" if observed.last_lines else ", nothing was printed"
