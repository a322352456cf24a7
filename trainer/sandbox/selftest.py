"""The self-test of the sandbox before the first trial: a probe runs in place of a candidate.

Promises: each act that it reports as open has just succeeded on this machine. A worker whose sandbox has a hole names
the hole and refuses to work, unless `--unsafe-local` accepts it. Does not cover acts that are not in the table.
"""

from __future__ import annotations

import json
import os
import select
import socket
from dataclasses import dataclass
from pathlib import Path

from trainer.sandbox.cleanup import clear
from trainer.sandbox.launch import GuardedProcess, Launch, can_own_root
from trainer.sandbox.layers import LAYERS, OWN_ROOT, ActTargets, Layer
from trainer.sandbox.paths import WorkerConfig
from trainer.sandbox.visible_paths import PRIVATE, grants

_WALL_S = 30.0
_CODE = Path(__file__).resolve().parents[1]


class Unsafe(RuntimeError):
    """Raised when candidates could do a forbidden act. The message names the act and the next step."""


@dataclass(frozen=True)
class SandboxCheck:
    """The applied layers, the forbidden acts that succeeded, and the fault of the GPU as seen from inside, or None."""

    layers: tuple[str, ...]
    open: tuple[str, ...]
    gpu_fault: str | None

    def require(self) -> None:
        """Raise Unsafe if a forbidden act succeeded, or if the GPU cannot be used."""
        if self.open:
            raise Unsafe(
                f"a candidate here could {', '.join(self.open)}; run in containers (scripts/up in a clone), or on "
                "Linux 5.13 or newer with Landlock switched on, or take the risk: --unsafe-local"
            )
        if self.gpu_fault is not None:
            raise Unsafe(
                f"a candidate could not use the GPU ({self.gpu_fault}); look at the driver with `overnight doctor`, in "
                "containers with scripts/doctor"
            )


def check_sandbox(config: WorkerConfig, password_file: Path | None) -> SandboxCheck:
    """Run the probe and return its findings. Raise Unsafe if the probe does not start."""
    folder = config.work / "probe"
    clear(folder, config.user)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        data = config.data.absolute()
        here = ActTargets(
            port=listening.getsockname()[1],
            data=data,
            private=data / PRIVATE,
            code=_CODE,
            results=None if config.trials is None else config.trials.absolute(),
            password=None if password_file is None else password_file.absolute(),
        )
        targets = {act.words: act.target(here) for layer in _expected() for act in layer.acts}
        output, layers = _run_probe(folder, config, json.dumps(targets))
    clear(folder, config.user)
    lines = [line.partition(": ") for line in output.splitlines()]
    return SandboxCheck(
        layers,
        tuple(what for name, _, what in lines if name == "open"),
        next((what for name, _, what in lines if name == "GPU"), None),
    )


def _expected() -> list[Layer]:
    """Return the layers for which the acts are tried.

    If candidates can have no root folder of their own, its acts are not tried; trainer/README.md lists them as open.
    """
    return [layer for layer in LAYERS if layer.name != OWN_ROOT or can_own_root()]


def _run_probe(folder: Path, config: WorkerConfig, targets: str) -> tuple[str, tuple[str, ...]]:
    """Return the output of the probe, and the layers that were applied to it."""
    guarded = GuardedProcess.start(
        Launch(
            folder=folder.absolute(),
            files={},
            orders=targets,
            env={},
            keep_fds=(),
            wall_limit_s=_WALL_S,
            file_mib=1,
            processes=8,
            grants=grants(config.data),
            user=config.user,
            module="trainer.sandbox.selftest_probe",
        )
    )
    try:
        select.select([guarded.report_fd], [], [], 2 * _WALL_S)
        ending = guarded.ending()
        output = os.read(guarded.log_fd, 2**16).decode(errors="replace")
    finally:
        guarded.close()
    if ending is None or ending.exit_code != 0:
        raise Unsafe(f"no candidate can be started here ({output.strip() or ending}); see the message and fix it")
    return output, ending.layers
