"""The inputs of the checks as values: mode, folders, environment, clock, engine, GPUs, disk. Tests pass faulty ones."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

import docker

from researcher.files import read_text
from services.machine.gpu_env import GPU_ENV, LOCAL, Entries, compose_settings, read
from services.machine.gpus import InstalledGpu, installed_gpus
from services.machine.state import State
from trainer.jobs.environment import Program, environment

CPU_ENV = "services/cpu.env"
_COMMAND_S = 60
_ENGINE_S = 30


class Mode(StrEnum):
    """Plain processes; containers on a processor; containers on a GPU."""

    LOCAL = "local"
    CPU = "cpu"
    GPU = "gpu"


@dataclass(frozen=True)
class Environment:
    """`root` holds compose.yaml and gpu.env; `state` is that of local mode. `connect` raises the SDK's errors,
    `installed_gpus` GpuFault."""

    root: Path
    state: State
    environment: Mapping[str, str]
    now: datetime
    connect: Callable[[], docker.DockerClient]
    installed_gpus: Callable[[], list[InstalledGpu]]
    free_bytes: Callable[[Path], int]

    def which(self, program: str) -> str | None:
        """Return the path of a program, None if it is not on PATH."""
        return shutil.which(program, path=self.environment.get("PATH", os.defpath))

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a short command in `root`. Raises FileNotFoundError, PermissionError or TimeoutExpired."""
        return subprocess.run(
            command,
            cwd=self.root,
            env=environment(Program.DOCKER, compose_settings(self.environment), shell=self.environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_COMMAND_S,
            check=False,
        )

    def settings_files(self, mode: Mode) -> tuple[Entries, ...]:
        """Read gpu.env and the files that containers read after it. Raises NotText or OSError."""
        later = [CPU_ENV] if mode is Mode.CPU else []
        later += [LOCAL] if (self.root / LOCAL).exists() else []
        return tuple(read(read_text(self.root / name), name) for name in [GPU_ENV, *later])


def this_machine(root: Path, state: State, environment: Mapping[str, str] = os.environ) -> Environment:
    """Return the inputs of this machine."""
    return Environment(
        root=root,
        state=state,
        environment=environment,
        now=datetime.now(UTC),
        connect=lambda: docker.from_env(timeout=_ENGINE_S, environment=dict(environment)),
        installed_gpus=installed_gpus,
        free_bytes=free_bytes,
    )


def free_bytes(folder: Path) -> int:
    """Return the free bytes at a folder that may not exist yet, or at its nearest parent that this user may inspect."""
    for place in (folder, *folder.parents):
        try:
            return shutil.disk_usage(place).free
        except (FileNotFoundError, PermissionError):
            continue
    raise FileNotFoundError(folder)


def compose_files(mode: Mode, *, by_cdi: bool = False) -> Sequence[str]:
    """Return the options that name the compose files; none for the GPU mode with NVIDIA's runtime, whose file compose
    finds itself. `by_cdi` says that the engine has the GPU as a CDI device alone."""
    if mode is Mode.CPU:
        return ("-f", "compose.yaml", "-f", "services/compose.cpu.yaml")
    return ("-f", "compose.yaml", "-f", "services/compose.cdi.yaml") if by_cdi else ()
