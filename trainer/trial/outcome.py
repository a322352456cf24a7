"""Classifies the end of a candidate: an outcome and a sentence for users. Pure functions of values.

Promises: every end has exactly one outcome, and no accident from outside counts against a candidate. An accident of the
supervisor or the guardian is `lost`. An end with a possible cause outside the candidate is marked as `disturbed`, so
that the researcher measures the trial once more. Does not cover infrastructure failures before the candidate's start.
"""

from __future__ import annotations

import builtins
import math
import re
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from trainer.jobs import Outcome
from trainer.sandbox.launch import ExitReport
from trainer.scoring.causality import CausalityFinding

NO_MODULE = "what evaluate_bpb is given must be a torch module that a name of the script holds, alone or as a part"


PRINTED_TOLERANCE = 1e-3
_MEMORY = re.compile(r"MemoryError|can't allocate memory|not enough memory")
_DISK = re.compile(r"No space left on device|Disk quota exceeded")
_MOST_SHOWN = 1000.0
_ERROR = re.compile(r"(?:\w{1,40}\.){0,4}(\w{1,60})(?::|$)")  # the last line of a traceback
_ERRORS = {name for name, value in vars(builtins).items() if isinstance(value, type) and issubclass(value, Exception)}
_ERRORS |= {"OutOfMemoryError", "AcceleratorError", "Unsupported", "InductorError"}  # torch's own
_GPU_MEMORY = re.compile(r"OutOfMemoryError|CUDA out of memory|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED")
_WORKER_KILLED = re.compile(r"DataLoader worker .*(?:killed by signal|exited unexpectedly)|BrokenProcessPool")
# The kernel sends these signals because of the process's own code. Any other signal may come from another process.
_OF_ITS_CODE = frozenset(
    {
        signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGTRAP, signal.SIGSYS,
        signal.SIGXCPU, signal.SIGXFSZ, signal.SIGPIPE,
    }
)  # fmt: skip
_AWAY_S = 5.0  # the supervisor wakes ten times a second, so a busy machine alone does not delay it this long
_STOPPED_S = 1.0  # two samples


@dataclass(frozen=True)
class Termination:
    """The outcome of a trial and its reason. `disturbed` names a possible cause outside the candidate, or is None."""

    outcome: Outcome
    reason: str
    disturbed: str | None = None


@dataclass(frozen=True)
class Observation:
    """The end of a candidate as observed from outside.

    `ending` is None if the guardian was killed or does not answer. `bpb` is the trainer's score, `printed_bpb` the
    candidate's claim. `vram_mib` is the cap on a GPU. `no_room` is the message about a disk that is full even without
    the candidate's files, or None. `no_gpu` is the message about a GPU that the trial wanted and that is
    gone, or None.

    `kernel_oom_kills` counts kills by the kernel for lack of memory during the trial: in the trainer's control group if
    `oom_of_own_group`, otherwise on the whole machine. For `stopped_s` seconds a stop signal held a process of the
    candidate; for `away_s` the supervisor did not run. Both cost training time if the clock is `on_wall`.
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
    no_gpu: str | None = None


def classify(observed: Observation, judge: Callable[[Observation], Termination] | None = None) -> Termination:
    """Return the outcome, with its reason in one sentence.

    `judge` decides about a candidate that ended by itself and well; without it, the score by logits does.
    """
    lost = lost_to_an_accident(observed.stop, observed.ending, observed.away_s)
    if lost is not None:
        return lost
    is_preempted = observed.stop is not None and observed.stop.outcome is Outcome.PREEMPTED
    if observed.no_gpu is not None and observed.bpb is None and not is_preempted:
        return Termination(Outcome.LOST, f"the GPU was gone when it ended: {observed.no_gpu}")
    if observed.stop is not None:
        return _held_up(observed.stop, observed)
    assert observed.ending is not None, "without an ending and a stop the guardian was killed, so the trial is lost"
    return _held_up(_ended(observed.ending, observed, judge or _scored), observed)


def lost_to_an_accident(stop: Termination | None, ending: ExitReport | None, away_s: float) -> Termination | None:
    """Return `lost` if an accident ended the trial, otherwise None.

    Accidents are: the guardian was killed, got a signal to end from another process, or does not answer; or the
    supervisor did not run while a limit passed.

    No candidate can signal its guardian or its supervisor: the system call filter refuses this in every mode, and no
    candidate starts without the filter. A candidate that ends one of them in another way is lost at each attempt, which
    the researcher then counts against the candidate.
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
    """Return a sentence if a signal that may come from outside killed the candidate, otherwise None."""
    if ending is None or ending.signal is None or ending.ended_by != "itself" or ending.signal in _OF_ITS_CODE:
        return None
    return f"it was killed by {_name(ending.signal)}, which the trainer did not send"


def _held_up(stop: Termination, observed: Observation) -> Termination:
    """Mark an interrupted trial as `disturbed` if it timed out, or if it has a score by the wall clock."""
    held_s = observed.stopped_s + observed.away_s if observed.on_wall else observed.stopped_s
    costs = stop.outcome is Outcome.TIMED_OUT or (observed.on_wall and stop.outcome is Outcome.OK)
    if not costs or held_s < _STOPPED_S:
        return stop
    return replace(stop, disturbed=f"it was stopped for {held_s:.0f} s, not by the trainer")


def printed_agrees(bpb: float, printed_bpb: float) -> bool:
    """Return whether the printed score equals the trainer's within the tolerance for rounding."""
    return math.isfinite(printed_bpb) and abs(bpb - printed_bpb) <= PRINTED_TOLERANCE


def _ended(ending: ExitReport, observed: Observation, judge: Callable[[Observation], Termination]) -> Termination:
    if not ending.started:
        return Termination(Outcome.LOST, f"the trainer could not start it{_last_line(observed)}")
    if ending.ended_by == "wall limit":
        return Termination(Outcome.TIMED_OUT, "it was ended by the guardian's wall limit")
    if ending.signal is not None:
        return _killed(ending.signal, observed)
    if ending.exit_code != 0:
        return _failed(ending.exit_code, observed)
    return judge(observed)


def _killed(number: int, observed: Observation) -> Termination:
    if number == signal.SIGKILL and observed.kernel_oom_kills:
        reason = "the kernel killed it when the machine or container ran out of memory"
        neighbours = None if observed.oom_of_own_group else "the whole machine ran out of memory"
        return Termination(Outcome.OUT_OF_MEMORY, reason, neighbours)
    return Termination(Outcome.CRASHED, f"killed by {_name(number)}{_last_line(observed)}", signalled(observed.ending))


def _failed(exit_code: int | None, observed: Observation) -> Termination:
    if any(_GPU_MEMORY.search(line) for line in observed.last_lines):
        cap = f"; its cap is {observed.vram_mib} MiB" if observed.vram_mib is not None else ""
        return Termination(Outcome.OUT_OF_MEMORY, f"the GPU ran out of memory{cap}{_last_line(observed)}")
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
    """Return the name of a signal, or its number if it has none, as a real-time signal does."""
    return signal.Signals(number).name if number in list(signal.Signals) else f"signal {number}"


def _out_of_disk(observed: Observation) -> Termination:
    """Return `lost` if the disk is still full without the candidate's files, otherwise `crashed`.

    There was room when the trial began, so room that came back with the removal was used by the candidate.
    """
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
    """Return a printed score in few characters, because a candidate can print a number of any length."""
    return f"{printed:.6f}" if abs(printed) < _MOST_SHOWN or math.isnan(printed) else "far from any score"


def _last_line(observed: Observation) -> str:
    """Return the candidate's last printed line, as the end of a sentence.

    After it asked for its score, a candidate could quote questions. From then on only the kind of an error is returned.
    """
    if observed.asked_for_score:
        return f" while it was being scored{_error_kind(observed.last_lines)}; its own words are in its log"
    return f": {observed.last_lines[-1].strip()[:300]}" if observed.last_lines else ", nothing was printed"


def _error_kind(lines: tuple[str, ...]) -> str:
    names = [found.group(1) for line in lines if (found := _ERROR.match(line)) is not None]
    known = [name for name in names if name in _ERRORS]
    return f": {known[-1]}" if known else ""


@dataclass(frozen=True)
class ReplicaEnded:
    """The end of a replica as observed from outside. For `away_s` seconds the supervisor did not run."""

    stop: Termination | None
    ending: ExitReport | None
    away_s: float = 0.0
    last_lines: Sequence[str] = ()


def replica_fault(finding: CausalityFinding | None, ended: ReplicaEnded) -> Termination | None:
    """Return why the candidate's score does not count, or None if the replica confirms it.

    A limit or a signal that ended the replica may be an accident. Such a fault is `disturbed`, so the researcher
    measures the trial once more before the fault counts.
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
