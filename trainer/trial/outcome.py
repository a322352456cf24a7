"""From what was observed to an outcome and a sentence for a person. Pure: values in, values out.

Promises: every way a candidate can end has exactly one outcome, and no accident from outside is a candidate's outcome:
what happened to the supervisor or to the guardian is `lost`, and what may have come from outside or from the candidate
itself is marked as `disturbed`, so that the researcher measures it once more. Does not cover the machine's own failures
before the candidate was started.
"""

from __future__ import annotations

import builtins
import math
import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace

from trainer.jobs import Outcome
from trainer.sandbox.launch import ExitReport
from trainer.scoring.causality import CausalityFinding

NO_MODULE = "what evaluate_bpb is given must be a torch module that a module-level name holds, alone or as a part"


PRINTED_TOLERANCE = 1e-3
_MEMORY = re.compile(r"MemoryError|can't allocate memory|not enough memory")
_DISK = re.compile(r"No space left on device|Disk quota exceeded")
_MOST_SHOWN = 1000.0
_ERROR = re.compile(r"(?:\w{1,40}\.){0,4}(\w{1,60})(?::|$)")  # the last line of a traceback
_ERRORS = {name for name, value in vars(builtins).items() if isinstance(value, type) and issubclass(value, Exception)}
_ERRORS |= {"OutOfMemoryError", "AcceleratorError", "Unsupported", "InductorError"}  # torch's own
_CARD_MEMORY = re.compile(r"OutOfMemoryError|CUDA out of memory|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED")
_WORKER_KILLED = re.compile(r"DataLoader worker .*(?:killed by signal|exited unexpectedly)|BrokenProcessPool")
# The kernel sends these to a process for what its own code did. Any other signal may have been sent from outside.
_OF_ITS_CODE = frozenset(
    {
        signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGTRAP, signal.SIGSYS,
        signal.SIGXCPU, signal.SIGXFSZ, signal.SIGPIPE,
    }
)  # fmt: skip
_AWAY_S = 5.0  # the supervisor wakes ten times a second, so this is no delay of a busy machine
_STOPPED_S = 1.0  # two samples


@dataclass(frozen=True)
class Termination:
    """Why the supervisor ended a candidate. `disturbed` says what may have come from outside."""

    outcome: Outcome
    reason: str
    disturbed: str | None = None


@dataclass(frozen=True)
class Observation:
    """How a candidate ended. `ending` is None when its guardian was killed or does not answer; `bpb` is ours,
    `printed_bpb` its claim; `vram_mib` is its cap on a GPU; `no_room` is what its disk lacks also without its files.

    `kernel_oom_kills` counts the kernel's kills for memory meanwhile: in our own control group if `oom_of_own_group`,
    else on the whole machine. For `stopped_s` a process of the candidate was held by a stop signal, for `away_s` the
    supervisor itself did not run. Both cost training where the clock is `on_wall`.
    """

    stop: Termination | None
    ending: ExitReport | None
    asked_for_score: bool
    bpb: float | None
    printed_bpb: float | None
    last_lines: tuple[str, ...]
    kernel_oom_kills: int = 0
    oom_of_own_group: bool = True
    stopped_s: float = 0.0
    away_s: float = 0.0
    on_wall: bool = False
    vram_mib: int | None = None
    no_room: str | None = None


def classify(observed: Observation) -> Termination:
    """The outcome, and why in one sentence."""
    lost = lost_to_an_accident(observed.stop, observed.ending, observed.away_s)
    if lost is not None:
        return lost
    if observed.stop is not None:
        return _held_up(observed.stop, observed)
    assert observed.ending is not None, "without an ending and a stop the guardian was killed, so the trial is lost"
    return _held_up(_ended(observed.ending, observed), observed)


def lost_to_an_accident(stop: Termination | None, ending: ExitReport | None, away_s: float) -> Termination | None:
    """Why a trial says nothing of its candidate, or None: its guardian was killed, told to end by somebody else or does
    not answer, or the supervisor itself did not run while a limit passed.

    No candidate can signal its guardian or its supervisor: the system call filter refuses it in every mode, and without
    the filter no candidate is started. A candidate that brings either down by another way is lost again and again, and
    the researcher then counts that against it.
    """
    if stop is None and ending is None:
        return Termination(Outcome.LOST, "its guardian was killed by somebody else, so the trial was ended")
    if stop is None and ending is not None and ending.ended_by == "request":
        return Termination(Outcome.LOST, "somebody else told its guardian to end the trial")
    by_guardian = stop is None and ending is not None and ending.ended_by == "wall limit"
    if not by_guardian and (stop is None or stop.outcome is not Outcome.TIMED_OUT):
        return None
    if ending is None:
        return Termination(Outcome.LOST, "its guardian did not answer, so the time that passed says nothing")
    if away_s > _AWAY_S:
        return Termination(
            Outcome.LOST, f"the supervisor itself did not run for {away_s:.0f} s, so a limit passed unseen"
        )
    return None


def signalled(ending: ExitReport | None) -> str | None:
    """How a process of the candidate was ended by a signal that may have come from outside, or None."""
    if ending is None or ending.signal is None or ending.ended_by != "itself" or ending.signal in _OF_ITS_CODE:
        return None
    return f"it was killed by {_name(ending.signal)}, which nobody here sent"


def _held_up(stop: Termination, observed: Observation) -> Termination:
    """Mark a time-out, or any score by the wall clock, of a candidate that was held by a stop signal meanwhile."""
    held_s = observed.stopped_s + observed.away_s if observed.on_wall else observed.stopped_s
    costs = stop.outcome is Outcome.TIMED_OUT or (observed.on_wall and stop.outcome is Outcome.OK)
    if not costs or held_s < _STOPPED_S:
        return stop
    return replace(stop, disturbed=f"it was held up for {held_s:.0f} s, which nobody here did")


def printed_agrees(bpb: float, printed_bpb: float) -> bool:
    """True when the printed number is ours, as far as printing goes."""
    return math.isfinite(printed_bpb) and abs(bpb - printed_bpb) <= PRINTED_TOLERANCE


def _ended(ending: ExitReport, observed: Observation) -> Termination:
    if not ending.started:
        return Termination(Outcome.LOST, f"the trainer could not start it{_last_line(observed)}")
    if ending.ended_by == "wall limit":
        return Termination(Outcome.TIMED_OUT, "it was ended by the guardian's wall limit")
    if ending.signal is not None:
        return _killed(ending.signal, observed)
    if ending.exit_code != 0:
        return _failed(ending.exit_code, observed)
    return _scored(observed)


def _killed(number: int, observed: Observation) -> Termination:
    if number == signal.SIGKILL and observed.kernel_oom_kills:
        reason = "the kernel killed it when the machine or container ran out of memory"
        neighbours = None if observed.oom_of_own_group else "the whole machine ran out of memory"
        return Termination(Outcome.OUT_OF_MEMORY, reason, neighbours)
    return Termination(Outcome.CRASHED, f"killed by {_name(number)}{_last_line(observed)}", signalled(observed.ending))


def _failed(exit_code: int | None, observed: Observation) -> Termination:
    if any(_CARD_MEMORY.search(line) for line in observed.last_lines):
        cap = f"; its cap is {observed.vram_mib} MiB" if observed.vram_mib is not None else ""
        return Termination(Outcome.OUT_OF_MEMORY, f"the GPU's memory did not do{cap}{_last_line(observed)}")
    if any(_MEMORY.search(line) for line in observed.last_lines):
        return Termination(Outcome.OUT_OF_MEMORY, f"out of memory{_last_line(observed)}")
    if observed.kernel_oom_kills:
        return Termination(Outcome.OUT_OF_MEMORY, f"the kernel killed a process of it for memory{_last_line(observed)}")
    if any(_DISK.search(line) for line in observed.last_lines):
        return _out_of_disk(observed)
    killed = any(_WORKER_KILLED.search(line) for line in observed.last_lines)
    disturbed = "it says that a process of it was killed" if killed else None
    return Termination(Outcome.CRASHED, f"exit code {exit_code}{_last_line(observed)}", disturbed)


def _name(number: int) -> str:
    """A signal's name, also of one that has none, such as a real-time signal."""
    return signal.Signals(number).name if number in list(signal.Signals) else f"signal {number}"


def _out_of_disk(observed: Observation) -> Termination:
    """There was room when it began, and its files are gone: room that is back was taken by it."""
    if observed.no_room is not None:
        return Termination(
            Outcome.LOST, f"it found no room on the disk, and there is none without its files: {observed.no_room}"
        )
    return Termination(Outcome.CRASHED, f"it filled the disk of the work folder{_last_line(observed)}")


def _scored(observed: Observation) -> Termination:
    if observed.bpb is None:
        did = "ended while it was being scored" if observed.asked_for_score else "ended without asking for its score"
        return Termination(
            Outcome.UNSCORABLE, f"it {did}; train.py must call evaluate_bpb(model, tokenizer, batch_size)"
        )
    if observed.printed_bpb is not None and not printed_agrees(observed.bpb, observed.printed_bpb):
        return Termination(
            Outcome.UNSCORABLE,
            f"it printed val_bpb {_shown(observed.printed_bpb)}, the trainer measured {observed.bpb:.6f}",
        )
    return Termination(Outcome.OK, f"val_bpb {observed.bpb:.6f}")


def _shown(printed: float) -> str:
    """In a few digits: any number can be printed."""
    return f"{printed:.6f}" if abs(printed) < _MOST_SHOWN or math.isnan(printed) else "far from any score"


def _last_line(observed: Observation) -> str:
    """What it printed last; of what came after it asked for its score, when it could quote its questions, no more than
    the kind of an error."""
    if observed.asked_for_score:
        return f" while it was being scored{_error_kind(observed.last_lines)}; its own words are in its log"
    return f": {observed.last_lines[-1].strip()[:300]}" if observed.last_lines else ", nothing was printed"


def _error_kind(lines: tuple[str, ...]) -> str:
    names = [found.group(1) for line in lines if (found := _ERROR.match(line)) is not None]
    known = [name for name in names if name in _ERRORS]
    return f": {known[-1]}" if known else ""


@dataclass(frozen=True)
class ReplicaEnded:
    """How a replica ended: why the supervisor ended it, its ending, how long the supervisor itself did not run
    meanwhile, and what the replica said last."""

    stop: Termination | None
    ending: ExitReport | None
    away_s: float = 0.0
    last_lines: Sequence[str] = ()


def replica_fault(finding: CausalityFinding | None, ended: ReplicaEnded) -> Termination | None:
    """Why the candidate's score does not count; None when the replica bears it out.

    A replica that ended by a limit or by a signal may have met with an accident: such a fault is `disturbed`, and the
    researcher has the trial measured once more before it counts.
    """
    stop, ending = ended.stop, ended.ending
    if stop is not None and stop.outcome in (Outcome.PREEMPTED, Outcome.LOST):
        return stop
    if ending is not None and not ending.started:
        return Termination(Outcome.LOST, f"the trainer could not start its replica{_last(ended.last_lines)}")
    lost = lost_to_an_accident(stop, ending, ended.away_s)
    if lost is not None:
        return Termination(Outcome.LOST, f"of its replica: {lost.reason}")
    if stop is not None:
        limit = stop.reason if stop.outcome in (Outcome.TIMED_OUT, Outcome.OUT_OF_MEMORY) else None
        return Termination(Outcome.UNSCORABLE, f"its replica cannot be asked: {stop.reason}", limit)
    if finding is None:
        words = f"its replica ended before it was asked{_last(ended.last_lines)}"
        return Termination(Outcome.UNSCORABLE, words, signalled(ending))
    fault = finding.fault
    return (
        None if fault is None else Termination(Outcome.UNSCORABLE, f"a fresh process with its weights differs: {fault}")
    )


def _last(lines: Sequence[str]) -> str:
    return f": {lines[-1].strip()[:300]}" if lines else ""
