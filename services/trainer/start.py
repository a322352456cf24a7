"""The entry point of the trainer's container: it finds the profile that fits the GPU, and then becomes the worker. With
--dry-runs it is the entry point of the dry-run worker, which needs no GPU.

With `PROFILE=auto` the GPU's memory from NVML decides; the worker publishes the profile, so that the researcher needs
no GPU. The process ends with 2 if the profile cannot be known.
"""

from __future__ import annotations

import logging
import os
import secrets
import sys
from pathlib import Path
from typing import NoReturn

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from researcher.config.setting import Mib
from researcher.config.settings import faults
from services.machine.gpus import AUTO, GpuFault, fitting_profile, installed_gpus, torch_build, visible_gpus
from trainer.jobs import ProfileError, WorkerRole, profile_named
from trainer.jobs.environment import Program, environment, python_command

logger = logging.getLogger("trainer")

REFUSED = 2
STATE = Path("/state")
WORK = Path("/run/overnight/work")
HEARTBEAT_FILE = Path("/run/overnight/heartbeat")
CANDIDATE_USER = 64001


class NoGpu(Exception):
    """PROFILE=auto is set, and no profile fits a GPU of this container."""


class ContainerSettings(BaseSettings):
    """The container's environment; an empty value counts as unset."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    redis_url: str
    redis_password_file: Path
    profile: str = AUTO
    trainer_cap_mib: Mib | None = None


def main() -> int:
    """Become the worker; return the exit code if that is refused."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stdout)
    try:
        settings = ContainerSettings()
        if sys.argv[1:] == ["--dry-runs"]:
            return _become(dry_run_worker(settings, name=new_name(WorkerRole.DRY_RUN_WORKER)))
        profile = gpu_profile() if settings.profile == AUTO else profile_named(settings.profile).name
    except ValidationError as error:
        for fault in faults(error):
            logger.error("%s", fault)
        return REFUSED
    except (NoGpu, GpuFault, ProfileError) as error:
        logger.error("%s", error)
        return REFUSED
    logger.info("profile %s%s", profile, ", by the GPU" if settings.profile == AUTO else "")
    return _become(worker(settings, profile, name=new_name(WorkerRole.TRAINER)))


def _become(arguments: list[str]) -> NoReturn:
    os.execve(sys.executable, arguments, environment(Program.PYTHON))


def new_name(role: WorkerRole) -> str:
    """Return a new name for this start of the worker, because RQ refuses one that a killed worker still holds."""
    return f"{role}-{secrets.token_hex(4)}"


def gpu_profile() -> str:
    """Return the profile that follows from the GPUs. Raises GpuFault, and NoGpu because a CPU is only ever chosen by
    the user."""
    there = visible_gpus(installed_gpus(), os.environ)
    profile = fitting_profile(there, torch_build())
    if profile != "cpu":
        return profile
    seen = ", ".join(f"{each.gpu.name} with {each.gpu.memory_mib} MiB" for each in there) or "none"
    raise NoGpu(
        f"PROFILE=auto needs an NVIDIA GPU that a profile fits, and this container sees {seen}; "
        "next: scripts/doctor, or without a GPU: scripts/up --cpu"
    )


def worker(settings: ContainerSettings, profile: str, *, name: str) -> list[str]:
    """Return the worker's command line."""
    arguments = [*_either(settings, name), "--trials", str(STATE / "trials"), "--profile", profile]
    if settings.trainer_cap_mib is not None:
        arguments += ["--vram-cap-mib", str(settings.trainer_cap_mib)]
    return arguments


def dry_run_worker(settings: ContainerSettings, *, name: str) -> list[str]:
    """Return the command line of the dry-run worker."""
    return [*_either(settings, name), "--dry-runs"]


def _either(settings: ContainerSettings, name: str) -> list[str]:
    arguments = python_command("trainer", "--redis", settings.redis_url)
    arguments += ["--password-file", str(settings.redis_password_file), "--single-host", "--name", name]
    arguments += ["--heartbeat-file", str(HEARTBEAT_FILE)]
    return [*arguments, "--data", str(STATE / "data"), "--work", str(WORK), "--candidate-user", str(CANDIDATE_USER)]


if __name__ == "__main__":
    raise SystemExit(main())
