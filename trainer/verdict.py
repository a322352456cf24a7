"""From what was observed to an outcome and a sentence for a person. Pure: values in, values out.

Promises: every way a candidate can end has exactly one outcome. Does not cover the machine's own failures before the
candidate was started.
"""

from __future__ import annotations

import builtins
import math
import re
import signal
from dataclasses import dataclass

from trainer.jobs import Outcome
from trainer.launch import Ending

PRINTED_TOLERANCE = 1e-3
_MEMORY = re.compile(r"MemoryError|can't allocate memory|not enough memory")
_DISK = re.compile(r"No space left on device|Disk quota exceeded")
_MOST_SHOWN = 1000.0
_ERROR = re.compile(r"(?:\w{1,40}\.){0,4}(\w{1,60})(?::|$)")  # the last line of a traceback
_ERRORS = {name for name, value in vars(builtins).items() if isinstance(value, type) and issubclass(value, Exception)}
_ERRORS |= {"OutOfMemoryError", "AcceleratorError", "Unsupported", "InductorError"}  # torch's own
_CARD_MEMORY = re.compile(r"OutOfMemoryError|CUDA out of memory|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED")


@dataclass(frozen=True)
class Stop:
    """Why the supervisor ended a candidate."""

    outcome: Outcome
    reason: str


@dataclass(frozen=True)
class Observed:
    """How a candidate ended. `ending` is None when its guardian was killed; `bpb` is ours, `printed_bpb` its claim;
    `vram_mib` is its cap on a card; `no_room` is what its disk lacks also without its files."""

    stop: Stop | None
    ending: Ending | None
    asked_for_score: bool
    bpb: float | None
    printed_bpb: float | None
    last_lines: tuple[str, ...]
    kernel_oom_kills: int = 0
    vram_mib: int | None = None
    no_room: str | None = None


def judge(observed: Observed) -> Stop:
    """The outcome, and why in one sentence."""
    if observed.stop is not None:
        return observed.stop
    if observed.ending is None:
        return Stop(Outcome.CRASHED, "its guardian process was killed, so the trial was ended")
    return _ended(observed.ending, observed)


def printed_agrees(bpb: float, printed_bpb: float) -> bool:
    """True when the printed number is ours, as far as printing goes."""
    return math.isfinite(printed_bpb) and abs(bpb - printed_bpb) <= PRINTED_TOLERANCE


def _ended(ending: Ending, observed: Observed) -> Stop:
    if not ending.started:
        return Stop(Outcome.LOST, f"the trainer could not start it{_last_line(observed)}")
    if ending.ended_by == "wall limit":
        return Stop(Outcome.TIMED_OUT, "it was ended by the guardian's wall limit")
    if ending.signal is not None:
        return _killed(ending.signal, observed)
    if ending.exit_code != 0:
        return _failed(ending.exit_code, observed)
    return _scored(observed)


def _killed(number: int, observed: Observed) -> Stop:
    if number == signal.SIGKILL and observed.kernel_oom_kills:
        return Stop(Outcome.OUT_OF_MEMORY, "the kernel killed it when the machine or container ran out of memory")
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"  # real-time: no name
    return Stop(Outcome.CRASHED, f"killed by {name}{_last_line(observed)}")


def _failed(exit_code: int | None, observed: Observed) -> Stop:
    if any(_CARD_MEMORY.search(line) for line in observed.last_lines):
        cap = f"; its cap is {observed.vram_mib} MiB" if observed.vram_mib is not None else ""
        return Stop(Outcome.OUT_OF_MEMORY, f"the card's memory did not do{cap}{_last_line(observed)}")
    if any(_MEMORY.search(line) for line in observed.last_lines):
        return Stop(Outcome.OUT_OF_MEMORY, f"out of memory{_last_line(observed)}")
    if observed.kernel_oom_kills:
        return Stop(Outcome.OUT_OF_MEMORY, f"the kernel killed a process of it for memory{_last_line(observed)}")
    if any(_DISK.search(line) for line in observed.last_lines):
        return _out_of_disk(observed)
    return Stop(Outcome.CRASHED, f"exit code {exit_code}{_last_line(observed)}")


def _out_of_disk(observed: Observed) -> Stop:
    """There was room when it began, and its files are gone: room that is back was taken by it."""
    if observed.no_room is not None:
        return Stop(
            Outcome.LOST, f"it found no room on the disk, and there is none without its files: {observed.no_room}"
        )
    return Stop(Outcome.CRASHED, f"it filled the disk of the work folder{_last_line(observed)}")


def _scored(observed: Observed) -> Stop:
    if observed.bpb is None:
        did = "ended while it was being scored" if observed.asked_for_score else "ended without asking for its score"
        return Stop(Outcome.UNSCORABLE, f"it {did}; train.py must call evaluate_bpb(model, tokenizer, batch_size)")
    if observed.printed_bpb is not None and not printed_agrees(observed.bpb, observed.printed_bpb):
        return Stop(
            Outcome.UNSCORABLE,
            f"it printed val_bpb {_shown(observed.printed_bpb)}, the trainer measured {observed.bpb:.6f}",
        )
    return Stop(Outcome.OK, f"val_bpb {observed.bpb:.6f}")


def _shown(printed: float) -> str:
    """In a few digits: any number can be printed."""
    return f"{printed:.6f}" if abs(printed) < _MOST_SHOWN or math.isnan(printed) else "far from any score"


def _last_line(observed: Observed) -> str:
    """What it printed last; of what came after it asked for its score, when it could quote its questions, no more than
    the kind of an error."""
    if observed.asked_for_score:
        return f" while it was being scored{_error_kind(observed.last_lines)}; its own words are in its log"
    return f": {observed.last_lines[-1].strip()[:300]}" if observed.last_lines else ", nothing was printed"


def _error_kind(lines: tuple[str, ...]) -> str:
    names = [found.group(1) for line in lines if (found := _ERROR.match(line)) is not None]
    known = [name for name in names if name in _ERRORS]
    return f": {known[-1]}" if known else ""
