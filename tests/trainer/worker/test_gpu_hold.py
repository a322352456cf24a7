"""A trial holds the lease of its GPU and the host's lock: real processes on a real server, without a GPU."""

from __future__ import annotations

import dataclasses
import fcntl
import multiprocessing
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.redis.server import RedisServer
from tests.doubles.nvml import NvmlGpu, NvmlLibrary, install_nvml
from tests.fixtures.trials import CAPS, MakeSpec, everything_dead, wait_for
from trainer.jobs import (
    HOLD_S,
    UNNAMED_GPU,
    Fenced,
    GpuTaken,
    LeasePhase,
    LeaseStore,
    Outcome,
    Progress,
    RedisClient,
    TrialResult,
    TrialSpec,
    gpu_lease,
)
from trainer.sandbox.paths import WorkerConfig
from trainer.trial import gpu
from trainer.trial import run as trial_run
from trainer.trial.trial import run_trial
from trainer.worker import gpu_hold, job_functions
from trainer.worker.gpu_hold import GpuHold, held_gpu
from trainer.worker.job_functions import WorkerState

ON_A_GPU = dataclasses.replace(CAPS, vram_mib=9000)
STARTING, TIMED, SCORING = "starting", "timed", "scoring"


@pytest.fixture
def store(bus: RedisClient) -> LeaseStore:
    return LeaseStore(bus.connection, UNNAMED_GPU)


def is_running() -> bool:
    return False


def in_phase(hold: GpuHold, store: LeaseStore, phase: str) -> None:
    hold.report(Progress(phase, 0.0, 0.0))
    wait_for(lambda: store.read().lease.phase == phase, 10)


RunJob = Callable[[TrialSpec], TrialResult]


@pytest.fixture
def run_job(server: RedisServer, config: WorkerConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunJob:
    """Runs the job of a trial in a fork, as the worker does: the job ends all descendants of its process.

    The trial holds a GPU that is not there, so its candidate is left to train on the processor.
    """
    monkeypatch.setattr(gpu, "why_missing", lambda caps: None)
    monkeypatch.setattr(trial_run, "vram_mib", lambda spec, config: None)
    state = WorkerState(config, "trainer-test", server.url, server.password, locks=tmp_path)
    monkeypatch.setattr(job_functions, "_worker_state", state)

    def run(spec: TrialSpec) -> TrialResult:
        fork = multiprocessing.get_context("fork")
        ours, theirs = fork.Pipe(duplex=False)
        process = fork.Process(target=lambda: theirs.send(job_functions.run_trial(spec.to_json())))
        process.start()
        result = TrialResult.from_json(ours.recv())
        process.join(10)
        return result

    return run


def test_a_trial_holds_the_gpu_through_its_phases_and_gives_it_back(
    store: LeaseStore, run_job: RunJob, spec: MakeSpec, tmp_path: Path
) -> None:
    result = run_job(spec("tiny", caps=ON_A_GPU))

    lease, at = store.read()
    assert result.outcome is Outcome.OK
    assert result.gpu_use is not None
    assert (result.gpu_use.llm_overlap_s, result.gpu_use.disturbance) == (0.0, None)
    assert lease.phase is LeasePhase.IDLE
    assert lease.may_answer(at, beside=False)
    with held_gpu(store, "next", is_running, tmp_path, 0) as hold:
        assert not hold.is_fenced


def test_a_trial_on_the_cpu_needs_no_lease(store: LeaseStore, run_job: RunJob, spec: MakeSpec) -> None:
    store.change(lambda lease, at: lease.answering("a", "client", at, beside=False))

    result = run_job(spec("tiny"))

    assert (result.outcome, result.gpu_use) == (Outcome.OK, None)


def test_the_timed_phase_is_recorded_at_the_servers_time(store: LeaseStore, tmp_path: Path) -> None:
    with held_gpu(store, "trial", is_running, tmp_path) as hold:
        for phase in (STARTING, TIMED, SCORING):
            in_phase(hold, store, phase)
            assert store.read().lease.may_answer(store.read().at, beside=True) is (phase == SCORING)

    timed = store.read().lease.timed
    assert timed is not None
    assert timed.until is not None


def test_no_trial_begins_beside_an_answer_and_the_reason_is_given(
    store: LeaseStore, run_job: RunJob, spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.change(lambda lease, at: lease.answering("a", "client", at, beside=False))
    monkeypatch.setattr(gpu_hold, "DRAIN_S", 0.0)

    result = run_job(spec("tiny", caps=ON_A_GPU))

    assert result.outcome is Outcome.LOST
    assert "the LLM has been answering" in result.reason
    lease, at = store.read()
    assert lease.is_wanted(at)


def test_a_trial_waits_for_the_end_of_an_answer(store: LeaseStore, tmp_path: Path) -> None:
    store.change(lambda lease, at: lease.answering("a", "client", at, beside=False))
    waits = iter(range(3))

    def third_look() -> bool:
        if next(waits, None) is None and store.read().lease.answer is not None:
            store.change(lambda lease, at: lease.answered("a", 6000, at))
        return False

    with held_gpu(store, "trial", third_look, tmp_path) as hold:
        assert not hold.is_fenced
    assert store.read().lease.llm_mib == 6000


CRASHES = """
import sys
from pathlib import Path
from trainer.jobs import LeaseStore, Progress, UNNAMED_GPU, connect
from trainer.worker.gpu_hold import held_gpu

url, password, locks, phase = sys.argv[1:]
store = LeaseStore(connect(url, password=password), UNNAMED_GPU)
with held_gpu(store, "dies", lambda: False, Path(locks)) as hold:
    for each in ("starting", "timed", "scoring"):
        hold.report(Progress(each, 0.0, 0.0))
        while store.read().lease.phase != each:
            pass
        if each == phase:
            break
    print("there", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("phase", [STARTING, TIMED, SCORING])
def test_the_gpu_of_a_killed_trial_is_free_after_the_hold_and_not_before(
    phase: str, server: RedisServer, store: LeaseStore, tmp_path: Path
) -> None:
    argv = [sys.executable, "-c", CRASHES, server.url, server.password or "", str(tmp_path), phase]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        with (
            pytest.raises(GpuTaken, match="another trial of this machine"),
            held_gpu(store, "next", is_running, tmp_path, 0),
        ):
            pass
        process.send_signal(signal.SIGKILL)

    with (
        pytest.raises(GpuTaken, match=f"another trial, dies-.*, is {phase}"),
        held_gpu(store, "next", is_running, tmp_path, 0),
    ):
        pass

    lease, at = store.read()
    assert not lease.may_answer(at, beside=False)
    assert lease.may_answer(at + HOLD_S, beside=False)
    assert lease.acquired("next", at + HOLD_S).phase is LeasePhase.STARTING


def test_a_frozen_trial_that_lost_the_gpu_is_fenced_and_its_score_never_counts(
    store: LeaseStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with held_gpu(store, "frozen", is_running, tmp_path) as hold:
        in_phase(hold, store, TIMED)
        monkeypatch.setattr(gpu_lease, "HOLD_S", -1.0)  # its beats come too late from now on
        taken = None
        while taken is None:
            try:
                taken = store.change(lambda lease, at: lease.answering("a", "client", at, beside=False))
            except GpuTaken:
                continue
        wait_for(lambda: hold.is_fenced, 10)
        use = hold.use()

    assert use.llm_overlap_s > 0
    assert "the LLM may have used the GPU" in (use.disturbance or "")
    assert store.read().lease.answer is not None, "the zombie gave back nothing"


def test_a_trial_that_loses_the_gpu_while_it_trains_is_ended_and_lost(
    store: LeaseStore, run_job: RunJob, spec: MakeSpec, config: WorkerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = GpuHold.report

    def report(hold: GpuHold, progress: Progress) -> None:
        real(hold, progress)
        if progress.phase == TIMED and store.read().lease.phase is LeasePhase.TIMED:
            store.change(lambda lease, _: gpu_lease.GpuLease())

    monkeypatch.setattr(GpuHold, "report", report)
    result = run_job(spec("hangs_in_training", caps=ON_A_GPU))

    assert (result.outcome, result.reason[:15]) == (Outcome.LOST, "it lost the GPU")
    assert everything_dead(config.work)


def test_the_guardian_holds_the_hosts_lock_and_the_candidate_does_not(
    spec: MakeSpec, config: WorkerConfig, tmp_path: Path
) -> None:
    path = tmp_path / "lock"
    path.touch()
    ours = os.open(path, os.O_RDONLY)
    fcntl.flock(ours, fcntl.LOCK_EX)
    holders: list[bytes] = []

    def report(progress: Progress) -> None:
        if progress.phase == TIMED and not holders:
            os.close(ours)  # as the death of the supervisor does
            holders.extend(commands_with(path))
            assert not can_lock(path)

    config = dataclasses.replace(config, held_fds=(ours,))
    run_trial(spec("hangs_in_training"), config, report, lambda: bool(holders))

    assert [b"trainer.sandbox.guardian" in command for command in holders] == [True]
    assert can_lock(path)


def commands_with(path: Path) -> list[bytes]:
    """The command lines of the processes that have a file open."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            links = [os.readlink(fd) for fd in (process / "fd").iterdir()]
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if str(path) in links:
            found.append(command)
    return found


def can_lock(path: Path) -> bool:
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def test_a_released_trial_changes_nothing_more(store: LeaseStore, tmp_path: Path) -> None:
    with held_gpu(store, "trial", is_running, tmp_path):
        holder = store.read().lease.holder

    with pytest.raises(Fenced):
        store.change(lambda lease, at: lease.beaten(holder, LeasePhase.TIMED, at))


def test_trials_of_two_gpus_do_not_wait_for_each_other(bus: RedisClient, store: LeaseStore, tmp_path: Path) -> None:
    other = LeaseStore(bus.connection, "GPU-2")

    with held_gpu(store, "one", is_running, tmp_path, 0), held_gpu(other, "two", is_running, tmp_path, 0):
        assert store.read().lease.phase is other.read().lease.phase is LeasePhase.STARTING


class FillsUp(NvmlLibrary):
    """The used memory of its GPU grows with every question."""

    def nvmlDeviceGetMemoryInfo(self, handle: Any, memory: Any) -> int:  # noqa: N802 NVML's name
        self.gpus = [dataclasses.replace(self.gpus[0], used_mib=self.gpus[0].used_mib + 1500)]
        return super().nvmlDeviceGetMemoryInfo(handle, memory)


def test_a_trial_that_holds_more_than_its_cap_is_ended_and_measured_once_more(
    run_job: RunJob, spec: MakeSpec, config: WorkerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_nvml(monkeypatch, FillsUp([NvmlGpu("NVIDIA H100", 81920)]))
    monkeypatch.setattr(gpu, "numbers_match", lambda: False)

    result = run_job(spec("hangs_in_training", caps=ON_A_GPU))

    assert result.outcome is Outcome.OUT_OF_MEMORY
    assert re.fullmatch(r"it held \d+ MiB of the GPU; the cap is 9000 MiB", result.reason)
    assert result.disturbed is not None
    assert everything_dead(config.work)


def test_no_trial_begins_beside_a_foreign_process(
    store: LeaseStore, run_job: RunJob, spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_nvml(monkeypatch, NvmlLibrary([NvmlGpu("NVIDIA H100", 81920, used_mib=40000)]))
    monkeypatch.setattr(gpu, "numbers_match", lambda: False)

    result = run_job(spec("tiny", caps=ON_A_GPU))

    assert result.outcome is Outcome.LOST
    assert result.reason.startswith("it was not begun: other processes hold 40000 MiB of the GPU")
    assert store.read().lease.phase is LeasePhase.IDLE
