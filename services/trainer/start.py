"""The trainer container's entry point: find out which profile fits the GPU, then become the worker. With --checks it
is the checker's, which needs no GPU.

With `PROFILE=auto` the GPU's memory as NVML tells it decides; the worker publishes the profile, so that the researcher
need not see a GPU. Ends with 2 where that cannot be known.
"""

from __future__ import annotations

import logging
import os
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from researcher.config.setting import Mib
from researcher.config.settings import faults
from services.machine.gpus import AUTO, GpuFault, detect_profile, gpus
from trainer.jobs import ProfileError, WorkerRole, profile_named

logger = logging.getLogger("trainer")

REFUSED = 2
STATE = Path("/state")
WORK = Path("/run/overnight/work")
NAME_FILE = Path("/run/overnight/worker")
CANDIDATE_USER = 64001


class NoCard(Exception):
    """PROFILE=auto, and no GPU that a profile fits."""


class ContainerSettings(BaseSettings):
    """The container's environment; an empty value is none."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    redis_url: str
    redis_password_file: Path
    profile: str = AUTO
    trainer_cap_mib: Mib | None = None


def main() -> int:
    """Become the worker; the exit code where that is refused."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stdout)
    try:
        settings = ContainerSettings()
        if sys.argv[1:] == ["--checks"]:
            return os.execv(sys.executable, checker(settings, name=choose_name(WorkerRole.CHECKER, NAME_FILE)))
        profile = card_profile(gpus()) if settings.profile == AUTO else profile_named(settings.profile).name
    except ValidationError as error:
        for fault in faults(error):
            logger.error("%s", fault)
        return REFUSED
    except (NoCard, GpuFault, ProfileError) as error:
        logger.error("%s", error)
        return REFUSED
    logger.info("profile %s%s", profile, ", by the GPU" if settings.profile == AUTO else "")
    arguments = worker(settings, profile, name=choose_name(WorkerRole.TRAINER, NAME_FILE))
    return os.execv(sys.executable, arguments)


def choose_name(role: WorkerRole, name_file: Path) -> str:
    """Return a name for this container's worker, and write it where its health check reads it.

    It is new at every start: RQ refuses one that a killed worker still holds.
    """
    name = f"{role}-{secrets.token_hex(4)}"
    name_file.write_text(name)
    return name


def card_profile(cards: Sequence[tuple[str, int]]) -> str:
    """The profile of the largest GPU (name, MiB). Raises NoCard: a processor is chosen, never fallen back to."""
    profile = detect_profile(cards)
    if profile != "cpu":
        return profile
    seen = ", ".join(f"{name} with {mib} MiB" for name, mib in cards) or "none"
    raise NoCard(
        f"PROFILE=auto needs an NVIDIA GPU that a profile fits, and this container sees {seen}; "
        "next: scripts/doctor, or without a GPU: scripts/up --cpu"
    )


def worker(settings: ContainerSettings, profile: str, *, name: str) -> list[str]:
    """The worker's command line."""
    arguments = [*_either(settings, name), "--trials", str(STATE / "trials"), "--profile", profile]
    if settings.trainer_cap_mib is not None:
        arguments += ["--vram-cap-mib", str(settings.trainer_cap_mib)]
    return arguments


def checker(settings: ContainerSettings, *, name: str) -> list[str]:
    """The checker's command line."""
    return [*_either(settings, name), "--checks"]


def _either(settings: ContainerSettings, name: str) -> list[str]:
    arguments = [sys.executable, "-m", "trainer", "--redis", settings.redis_url]
    arguments += ["--password-file", str(settings.redis_password_file), "--single-host", "--name", name]
    return [*arguments, "--data", str(STATE / "data"), "--work", str(WORK), "--candidate-user", str(CANDIDATE_USER)]


if __name__ == "__main__":
    raise SystemExit(main())
