"""What the checks look at, as arguments: folders, environment, clock, engine, GPUs, disk. Tests pass faulty ones."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import docker

from services.doctor.requirements import Mode
from services.machine.gpu_env import GPU_ENV, LOCAL, Entries, read
from services.machine.gpus import Card, cards
from services.machine.state import State

CPU_ENV = "services/cpu.env"
_COMMAND_S = 60
_ENGINE_S = 30


@dataclass(frozen=True)
class Environment:
    """`root` holds compose.yaml and gpu.env, `state` is local mode's; `connect` and `GPUs` raise what is wrong."""

    root: Path
    state: State
    environment: Mapping[str, str]
    now: datetime
    connect: Callable[[], docker.DockerClient]
    cards: Callable[[], list[Card]]
    free_bytes: Callable[[Path], int]

    def which(self, program: str) -> str | None:
        """Where a program is, if it is there."""
        return shutil.which(program, path=self.environment.get("PATH", os.defpath))

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a short command in `root`. Raises FileNotFoundError, TimeoutExpired."""
        return subprocess.run(
            command,
            cwd=self.root,
            env=dict(self.environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_COMMAND_S,
            check=False,
        )

    def settings_files(self, mode: Mode) -> tuple[Entries, ...]:
        """gpu.env and what containers read after it. Raises OSError for one that cannot be read."""
        later = [CPU_ENV] if mode is Mode.CPU else []
        later += [LOCAL] if (self.root / LOCAL).exists() else []
        return tuple(read((self.root / name).read_text(), name) for name in [GPU_ENV, *later])


def this_machine(root: Path, state: State, environment: Mapping[str, str] = os.environ) -> Environment:
    """The real ones."""
    return Environment(
        root=root,
        state=state,
        environment=environment,
        now=datetime.now(UTC),
        connect=lambda: docker.from_env(timeout=_ENGINE_S, environment=dict(environment)),
        cards=cards,
        free_bytes=free_bytes,
    )


def free_bytes(folder: Path) -> int:
    """Bytes free where a folder is or will be; the nearest one above it that this user may look at counts."""
    for place in (folder, *folder.parents):
        try:
            return shutil.disk_usage(place).free
        except (FileNotFoundError, PermissionError):
            continue
    raise FileNotFoundError(folder)


def compose_files(mode: Mode) -> Sequence[str]:
    """The options that name the files; none for the GPU's, which compose finds by itself."""
    return ("-f", "compose.yaml", "-f", "services/compose.cpu.yaml") if mode is Mode.CPU else ()
