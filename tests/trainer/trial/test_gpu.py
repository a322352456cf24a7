"""No trial begins beside the dead on a GPU; the driver's list is a script's, since here is no GPU."""

from __future__ import annotations

import dataclasses
import os
import subprocess
from pathlib import Path

import pytest

from tests.fixtures.trials import CAPS, MakeSpec
from trainer.jobs import Outcome
from trainer.sandbox.paths import WorkerConfig
from trainer.trial import gpu
from trainer.trial.trial import run_trial

ON_A_CARD = dataclasses.replace(CAPS, vram_mib=9000)


class ForgetfulDriver:
    """Lists this living process always, and a dead one the first `times` it is asked."""

    def __init__(self, folder: Path, times: int) -> None:
        gone = subprocess.Popen(["true"])
        gone.wait(10)
        self.dead = gone.pid
        self._asked = folder / "asked"
        program = folder / "nvidia-smi"
        program.write_text(
            f"#!/bin/sh\necho x >> {self._asked}\necho {os.getpid()}\n"
            f'test "$(wc -l < {self._asked})" -gt {times} || echo {self.dead}\n'
        )
        program.chmod(0o755)

    @property
    def asked(self) -> int:
        return len(self._asked.read_text().split()) if self._asked.exists() else 0


@pytest.fixture(autouse=True)
def first_namespace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu, "_FIRST_PID_NAMESPACE", os.readlink("/proc/self/ns/pid"))
    monkeypatch.setattr(gpu, "_LOOK_AGAIN_S", 0)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


def test_the_dead_are_waited_for_and_the_living_are_not(tmp_path: Path) -> None:
    driver = ForgetfulDriver(tmp_path, times=3)

    assert gpu.why_not_ready(ON_A_CARD) is None
    assert driver.asked == 4


def test_trial_is_not_begun_beside_one_that_stays_and_it_is_said_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: MakeSpec, places: WorkerConfig
) -> None:
    driver = ForgetfulDriver(tmp_path, times=10**6)
    monkeypatch.setattr(gpu, "_PATIENCE_S", 0)

    result = run_trial(spec("tiny", caps=ON_A_CARD), places, lambda _: None, lambda: False)

    assert result.outcome is Outcome.LOST
    assert f"it was not begun: the GPU still holds processes that are gone ({driver.dead})" in result.reason


@pytest.mark.parametrize("why", ["no GPU", "a container", "a driver that fails"])
def test_where_nobody_can_tell_no_trial_waits(why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = ForgetfulDriver(tmp_path, times=10**6)
    if why == "a container":
        monkeypatch.setattr(gpu, "_FIRST_PID_NAMESPACE", "pid:[1]")
    if why == "a driver that fails":
        (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")

    assert gpu.why_not_ready(CAPS if why == "no GPU" else ON_A_CARD) is None
    assert driver.asked == 0
