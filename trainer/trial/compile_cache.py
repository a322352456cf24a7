"""The compilers' caches of the baseline's first trial, kept on the trainer's disk and copied into later trials.

A cache is executable code, and could carry weights from one trial to the next. Promises: only a trial that the
researcher marked as the user's own script is a source; each other trial gets a copy of its own, from a file that no
candidate can see. The copy is used only on a machine with the same torch, Python, processor, driver and GPU. Does not
cover what the compiler itself compares: it looks each graph up by its content, and compiles what is not there.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pynvml

from trainer.jobs import Caps, Clock, TrialSpec
from trainer.sandbox.cgroup import kernel_text
from trainer.sandbox.launch import isolated_command
from trainer.sandbox.packed_caches import NOBODY_ELSE
from trainer.sandbox.paths import WorkerConfig
from trainer.trial import gpu

log = logging.getLogger(__name__)

MOST_BYTES = 2**29
_PACK_S = 120.0
_MOST_THREADS = 8  # each compiling process holds torch; beyond this, memory is scarcer than time
_OF_PROCESSOR = ("model name", "flags", "Features", "CPU part")


def found(spec: TrialSpec, config: WorkerConfig, *, replica: bool) -> Path | None:
    """Return the packed caches with which a trial or its replica starts, or None.

    The trial whose caches are kept starts without, so that its warm-up shows what compiling takes.
    """
    if (spec.shares_compiled and not replica) or not config.compiled.is_dir():
        return None
    machine = _machine(spec.caps)
    packed = config.compiled / machine if machine is not None else None
    return packed if packed is not None and packed.is_file() else None


def keep(spec: TrialSpec, config: WorkerConfig) -> None:
    """Keep the caches of the work folder if the spec says so. Call this when all processes of the trial are dead.

    A failure is logged, and later trials then compile everything. Caches of an earlier run or machine are replaced.
    """
    if not spec.shares_compiled or (machine := _machine(spec.caps)) is None:
        return
    partial = config.compiled / "partial"
    try:
        config.compiled.mkdir(mode=0o700, parents=True, exist_ok=True)
        fault = _pack(config, partial)
        if fault is None and partial.stat().st_size:
            for old in config.compiled.iterdir():
                if old != partial:
                    old.unlink()
            partial.rename(config.compiled / machine)
        partial.unlink(missing_ok=True)
    except (OSError, subprocess.TimeoutExpired) as error:
        fault = str(error)
    if fault is not None:
        log.warning("%s: its compiled code is not kept, so later trials compile everything: %s", spec.id, fault)


def threads(clock: Clock) -> int:
    """Return the number of compiling processes: one where processor seconds count, otherwise a core each, up to 8."""
    return min(_MOST_THREADS, len(os.sched_getaffinity(0))) if clock is Clock.WALL else 1


def _pack(config: WorkerConfig, target: Path) -> str | None:
    """Pack the caches into a file of the trainer, and return a fault or None. The candidates' user reads them."""
    user = (NOBODY_ELSE, NOBODY_ELSE) if config.user is None else (config.user.uid, config.user.gid)
    caches = config.folder.absolute() / "cache"
    command = isolated_command("trainer.sandbox.packed_caches", *map(str, (*user, caches, MOST_BYTES)))
    with target.open("wb") as file:
        done = subprocess.run(
            command, check=False, stdout=file, stderr=subprocess.PIPE, timeout=_PACK_S, cwd="/", env={}
        )
        file.flush()
        os.fsync(file.fileno())
    if done.returncode == 0:
        return None
    return (done.stderr.decode(errors="replace").splitlines() or [f"ended with {done.returncode}"])[-1]


def _machine(caps: Caps) -> str | None:
    """Return a digest of all that compiled code depends on, or None if this machine does not say it."""
    try:
        gpus = [] if caps.vram_mib is None else gpu.identities()
        torch = version("torch")  # which pins Triton
    except pynvml.NVMLError as fault:
        log.warning("no compiled code is shared, since the driver cannot be asked: %s", fault)
        return None
    except PackageNotFoundError:
        return None
    processor = [line for line in _first_processor() if line.startswith(_OF_PROCESSOR)]
    facts = [torch, platform.python_version(), platform.machine(), processor, gpus]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _first_processor() -> list[str]:
    return kernel_text(Path("/proc/cpuinfo")).partition("\n\n")[0].splitlines()
