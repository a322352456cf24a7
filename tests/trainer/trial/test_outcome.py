"""Every ending has one outcome and a sentence."""

from __future__ import annotations

import dataclasses
import math
import signal

import pytest

from trainer.jobs import Outcome
from trainer.sandbox.launch import ExitReport
from trainer.trial.outcome import Observation, Termination, classify

FINE = ExitReport(exit_code=0, signal=None, ended_by="itself", processor_s=1, peak_rss_mib=1, leftovers=0)
SCORED = Observation(
    stop=None, ending=FINE, asked_for_score=True, bpb=1.5, printed_bpb=1.5, last_lines=("num_steps: 3",)
)
# As torch's CUDA allocator words it where a fraction is set; the numbers are invented.
GPU_IS_FULL = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 47.54 GiB "
    "of which 29.10 GiB is free. Process 4711 has 9.98 GiB memory in use. 9.41 GiB allowed; Of the allocated memory "
    "9.12 GiB is allocated by PyTorch, and 21.50 MiB is reserved by PyTorch but unallocated."
)
UNSCORED = dataclasses.replace(SCORED, bpb=None, printed_bpb=None)
TIMED_OUT = Termination(Outcome.TIMED_OUT, "it was not scored within 9 s")
PREEMPTED = Termination(Outcome.PREEMPTED, "the worker was asked to stop")
GONE = "the driver shows no GPU"
TOO_LARGE = Termination(Outcome.OUT_OF_MEMORY, "it held 9000 MiB; the cap is 500 MiB")


def ended(**how: object) -> Observation:
    """Before it asked for its score."""
    ending = dataclasses.replace(FINE, **how)  # type: ignore[arg-type]
    return dataclasses.replace(UNSCORED, ending=ending, asked_for_score=False)


def saying(observed: Observation, *lines: str) -> Observation:
    return dataclasses.replace(observed, last_lines=lines)


def capped(*lines: str) -> Observation:
    return dataclasses.replace(saying(ended(exit_code=1), *lines), vram_mib=10240)


@pytest.mark.parametrize(
    ("observed", "outcome", "words"),
    [
        (SCORED, Outcome.OK, "val_bpb 1.500000"),
        (dataclasses.replace(SCORED, printed_bpb=None), Outcome.OK, "val_bpb"),
        (dataclasses.replace(SCORED, printed_bpb=1.5009), Outcome.OK, "val_bpb"),
        (dataclasses.replace(SCORED, printed_bpb=1.5011), Outcome.UNSCORABLE, "it printed val_bpb 1.501100"),
        (dataclasses.replace(SCORED, printed_bpb=math.nan), Outcome.UNSCORABLE, "it printed val_bpb nan"),
        (dataclasses.replace(SCORED, ending=dataclasses.replace(FINE, exit_code=3)), Outcome.CRASHED, "exit code 3"),
        (UNSCORED, Outcome.UNSCORABLE, "while it was being scored"),
        (dataclasses.replace(UNSCORED, asked_for_score=False), Outcome.UNSCORABLE, "without asking for its score"),
        (saying(ended(exit_code=1), "ValueError: x"), Outcome.CRASHED, "exit code 1: ValueError: x"),
        (saying(ended(exit_code=1)), Outcome.CRASHED, "nothing was printed"),
        (saying(ended(exit_code=1), "MemoryError"), Outcome.OUT_OF_MEMORY, "MemoryError"),
        (saying(ended(exit_code=1), "torch.OutOfMemoryError: CUDA out of memory."), Outcome.OUT_OF_MEMORY, "CUDA"),
        (
            capped(GPU_IS_FULL),
            Outcome.OUT_OF_MEMORY,
            "its cap is 10240 MiB: torch.OutOfMemoryError: CUDA out of memory.",
        ),
        (capped("RuntimeError: CUDA error: out of memory", "Compile with"), Outcome.OUT_OF_MEMORY, "cap is 10240 MiB"),
        (saying(ended(exit_code=1), "[enforce fail] can't allocate memory", "more"), Outcome.OUT_OF_MEMORY, "more"),
        (ended(exit_code=None, signal=11), Outcome.CRASHED, "killed by SIGSEGV"),
        (ended(exit_code=None, signal=9), Outcome.CRASHED, "killed by SIGKILL"),
        (dataclasses.replace(ended(exit_code=None, signal=9), kernel_oom_kills=1), Outcome.OUT_OF_MEMORY, "kernel"),
        (dataclasses.replace(ended(exit_code=1), kernel_oom_kills=1), Outcome.OUT_OF_MEMORY, "a process of it"),
        (saying(ended(exit_code=70, ended_by="not started"), "seccomp: no"), Outcome.LOST, "not start it: seccomp: no"),
        (ended(exit_code=70), Outcome.CRASHED, "exit code 70"),
        (
            dataclasses.replace(ended(exit_code=1), no_gpu=GONE),
            Outcome.LOST,
            "the GPU was gone when it ended: the driver",
        ),
        (dataclasses.replace(UNSCORED, stop=TIMED_OUT, no_gpu=GONE), Outcome.LOST, "the GPU was gone when it ended"),
        (dataclasses.replace(UNSCORED, stop=PREEMPTED, no_gpu=GONE), Outcome.PREEMPTED, "asked to stop"),
        (dataclasses.replace(SCORED, no_gpu=GONE), Outcome.OK, "val_bpb"),
        (ended(exit_code=None, signal=9, ended_by="wall limit"), Outcome.TIMED_OUT, "wall limit"),
        (dataclasses.replace(UNSCORED, ending=None), Outcome.LOST, "its guardian was killed by somebody else"),
        (dataclasses.replace(SCORED, ending=None), Outcome.LOST, "its guardian was killed by somebody else"),
        (ended(exit_code=None, signal=9, ended_by="request"), Outcome.LOST, "somebody else told its guardian"),
        (dataclasses.replace(UNSCORED, ending=None, stop=TIMED_OUT), Outcome.LOST, "its guardian did not answer"),
        (dataclasses.replace(UNSCORED, ending=None, stop=TOO_LARGE), Outcome.OUT_OF_MEMORY, "it held"),
        (dataclasses.replace(UNSCORED, stop=TIMED_OUT), Outcome.TIMED_OUT, "it was not scored"),
        (dataclasses.replace(UNSCORED, stop=TIMED_OUT, away_s=32), Outcome.LOST, "did not run for 32 s"),
        (dataclasses.replace(UNSCORED, stop=TOO_LARGE, away_s=32), Outcome.OUT_OF_MEMORY, "it held"),
        (
            dataclasses.replace(ended(exit_code=None, signal=9, ended_by="wall limit"), away_s=32),
            Outcome.LOST,
            "did not run for 32 s",
        ),
        (dataclasses.replace(SCORED, away_s=32, stopped_s=32), Outcome.OK, "val_bpb"),
        (
            dataclasses.replace(SCORED, stop=Termination(Outcome.PREEMPTED, "told to stop")),
            Outcome.PREEMPTED,
            "told to stop",
        ),
    ],
)
def test_ending_has_its_outcome(observed: Observation, outcome: Outcome, words: str) -> None:
    verdict = classify(observed)

    assert verdict.outcome is outcome
    assert words in verdict.reason


TOKENS = "17 4 33 9"


@pytest.mark.parametrize(
    ("lines", "kind"),
    [
        ((f"ValueError: {TOKENS}",), ": ValueError"),
        (("torch.OutOfMemoryError: CUDA out of memory. " + TOKENS,), ": OutOfMemoryError"),
        (("MemoryError",), ": MemoryError"),
        (("RuntimeError: can't allocate memory " + TOKENS, TOKENS), ": RuntimeError"),
        ((TOKENS,), ""),
        ((f"{TOKENS.replace(' ', '_')}Error: x",), ""),
        ((f"No space left on device: {TOKENS}",), ""),
        ((), ""),
    ],
)
@pytest.mark.parametrize("how", [{"exit_code": 1}, {"exit_code": None, "signal": 11}])
def test_nothing_that_came_after_it_asked_for_its_score_is_quoted_but_the_kind_of_an_error(
    lines: tuple[str, ...], kind: str, how: dict[str, int]
) -> None:
    asked = dataclasses.replace(saying(ended(**how), *lines), asked_for_score=True)

    reason = classify(asked).reason

    assert reason.endswith(f" while it was being scored{kind}; its own words are in its log")
    assert not {"17", "33"} & set(reason.split())


@pytest.mark.parametrize("printed", [1e300, -1e6, math.inf, 1234.56789])
def test_a_printed_score_is_told_in_few_digits(printed: float) -> None:
    reason = classify(dataclasses.replace(SCORED, printed_bpb=printed)).reason

    assert reason == "it printed val_bpb far from any score, the trainer measured 1.500000"


BY_SIGNAL = ended(exit_code=None)
ON_WALL = dataclasses.replace(SCORED, on_wall=True)


def by(which: int | str, **more: object) -> Observation:
    number = signal.Signals[f"SIG{which}"] if isinstance(which, str) else which
    assert BY_SIGNAL.ending is not None
    return dataclasses.replace(BY_SIGNAL, ending=dataclasses.replace(BY_SIGNAL.ending, signal=number), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("observed", "words"),
    [
        *(
            (by(number), "which the trainer did not send")
            for number in ("KILL", "TERM", "QUIT", "USR1", "ALRM", "VTALRM")
        ),
        (by(signal.SIGRTMIN + 3), f"signal {signal.SIGRTMIN + 3}"),
        *((by(number), None) for number in ("SEGV", "BUS", "FPE", "ILL", "ABRT", "SYS", "XFSZ", "XCPU", "PIPE")),
        (by("KILL", kernel_oom_kills=1), None),
        (by("KILL", kernel_oom_kills=1, oom_of_own_group=False), "the whole machine ran out of memory"),
        (
            saying(ended(exit_code=1), "RuntimeError: DataLoader worker (pid 7) is killed by signal: Killed."),
            "was killed",
        ),
        (saying(ended(exit_code=1), "RuntimeError: the loss is nan"), None),
        (dataclasses.replace(UNSCORED, stop=TIMED_OUT, stopped_s=26), "stopped for 26 s"),
        (dataclasses.replace(UNSCORED, stop=TIMED_OUT, stopped_s=0.5), None),
        (dataclasses.replace(UNSCORED, stop=TOO_LARGE, stopped_s=26), None),
        (dataclasses.replace(SCORED, stopped_s=26, away_s=26), None),
        (dataclasses.replace(ON_WALL, stopped_s=26), "stopped for 26 s"),
        (dataclasses.replace(ON_WALL, away_s=26), "stopped for 26 s"),
        (ON_WALL, None),
    ],
)
def test_what_may_have_come_from_outside_is_said_and_what_is_the_codes_own_is_not(
    observed: Observation, words: str | None
) -> None:
    disturbed = classify(observed).disturbed

    assert disturbed is None if words is None else words in (disturbed or "")
