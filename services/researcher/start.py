"""The entry point of the researcher's container: it decides the choices of the run, runs the researcher, and stays
after it.

After the end of a run the container keeps running, so that `overnight` still answers there and the engine restarts
nothing; a new start of the container continues the run. If the researcher refuses to run, the container becomes
unhealthy instead of restarting for ever. The heartbeat file holds the researcher's status for the health check, and
the file of the container `model` the state of its pull, which the views then show.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import NoReturn

import redis
from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from researcher.config.setting import Seconds
from researcher.config.settings import faults, researcher_settings
from researcher.errors import OvernightError, ResearcherError
from researcher.files import read_text, write_whole
from researcher.journal.reader import JournalReader
from researcher.llm.backends import backend_named
from researcher.loop.outages import OUTAGE_ERRORS, explain
from researcher.report.view import PULL
from services.adopt.task_check import require_committed
from services.machine.gpus import AUTO
from services.machine.state import RunConfig, State
from services.machine.subject import require_its_data, settle_subject
from trainer.jobs import ProfileError, RedisClient, Status, StatusKind, WorkerRole, connect
from trainer.jobs.environment import Program, environment, python_command
from trainer.jobs.task import Task
from trainer.stop import StopRequested, request_stop

logger = logging.getLogger("researcher")

FINISHED_CODE, REFUSED_CODE = 0, 2
REPORT_EVERY_S = 5.0


class ContainerSettings(BaseSettings):
    """The settings that this process reads; the researcher itself reads the rest of the environment."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    redis_url: str
    redis_password_file: Path
    overnight_state: Path
    profile: str = AUTO
    budget: Seconds | None = None
    user_repository: Path | None = None
    heartbeat_file: Path | None = None
    pull_file: Path | None = None
    llm: str | None = None


class OtherGpu(ResearcherError):
    """The run was begun on another kind of GPU than the present one."""


class ProfilesDiffer(OvernightError):
    """PROFILE=auto is set, and the trainers have several kinds of GPU."""


def main() -> int:
    """Run until SIGTERM; return the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", stream=sys.stdout)
    signal.signal(signal.SIGTERM, request_stop)
    try:
        settings = ContainerSettings()
        _stay(settings, _carry_out(settings))
    except StopRequested:
        return 0
    except ValidationError as error:
        for fault in faults(error):
            logger.error("%s", fault)
        return REFUSED_CODE


def _carry_out(settings: ContainerSettings) -> Status:
    """Run the researcher until it ends for good, and return its last status for the views."""
    state = State(settings.overnight_state)
    try:
        choices = _resolve_through_outages(settings, state)
    except (ResearcherError, OvernightError, ProfileError) as error:
        logger.error("%s", error)
        return Status(StatusKind.REFUSED, str(error))
    places = {"SUBJECT_DIR": state.subject, "JOURNAL_DIR": state.journal, "DATA_DIR": state.data}
    own = {name: str(path) for name, path in places.items()} | {"PROFILE": choices.profile}
    own["OWN_CONSTANTS"] = "" if choices.constants is None else json.dumps(choices.constants)
    own["OWN_TASK"] = "" if choices.task is None else json.dumps(choices.task)
    own["OWN_SCRIPT"] = choices.script
    code = _run(settings, environment(Program.PYTHON, researcher_settings(os.environ) | own))
    if code == REFUSED_CODE:
        return Status(StatusKind.REFUSED, "its log says why")
    if code != FINISHED_CODE:
        logger.error("the researcher ended with %d; the container starts again", code)
        raise SystemExit(1)
    with JournalReader(state.journal) as history:
        run = history.run()
    return Status(StatusKind.ENDED, (run and run.ended) or "it was stopped")


def _resolve_through_outages(settings: ContainerSettings, state: State) -> RunConfig:
    """Retry through outages, as the researcher itself does; if this process ended, the engine would restart it again
    and again."""
    while True:
        try:
            with closing(_open(settings)) as server:
                choices = resolve_options(settings, RedisClient(server))
            settle_subject(state, settings.user_repository, choices.trial_profile(), choices.script)
            require_its_data(settings.user_repository, choices)
            if choices.task is not None and settings.user_repository is not None:
                require_committed(settings.user_repository, Task.from_json(choices.task), begins=not state.has_begun)
            return choices
        except OUTAGE_ERRORS as error:
            message = explain(error, (state.journal, state.root), settings.redis_url)
            if message is None:
                raise
            logger.error("HELD: %s", message)
            _beat(settings, Status(StatusKind.HELD, message))
        time.sleep(REPORT_EVERY_S)


def _open(settings: ContainerSettings) -> redis.Redis:
    """Connect with the password that the file holds now, since a user fixes a wrong password there."""
    password = read_text(settings.redis_password_file).strip()
    return connect(settings.redis_url, password=password, patient=False)


def resolve_options(settings: ContainerSettings, bus: RedisClient) -> RunConfig:
    """Decide the choices of this run. With PROFILE=auto the trainers report their GPUs.

    Raises StateError or OtherGpu if the run was begun with other choices, ProfilesDiffer if the trainers disagree.
    """
    state = State(settings.overnight_state)
    if settings.profile != AUTO:
        return state.resolve(profile=settings.profile, budget=settings.budget, detect=lambda: settings.profile)
    found = _profile_of_trainers(bus, settings)
    choices = state.resolve(budget=settings.budget, detect=lambda: found)
    if choices.profile != found:
        raise OtherGpu(
            f"this run was begun with profile {choices.profile}, and the GPU found now is a {found}; "
            f"scores would not compare. Next: PROFILE={choices.profile} in gpu.env to go on all the same, "
            "or another journal volume and another subject volume for another run"
        )
    return choices


def _profile_of_trainers(bus: RedisClient, settings: ContainerSettings) -> str:
    waiting = Status.working("waiting for the trainer to say which GPU it found")
    logged = False
    while True:
        fits = {worker.worker: worker.profile for worker in bus.workers(WorkerRole.TRAINER) if worker.profile}
        if len(set(fits.values())) > 1:
            named = ", ".join(f"{name} fits {profile}" for name, profile in fits.items())
            raise ProfilesDiffer(
                f"PROFILE=auto needs trainers on one kind of GPU, and these differ: {named}",
                "stop the trainers of all kinds but one, or name the run's PROFILE in gpu.env; then restart",
            )
        if fits:
            return next(iter(fits.values()))
        if not logged:
            logger.info("%s", waiting)
            logged = True
        bus.publish_status("researcher", waiting)
        _beat(settings, waiting)
        time.sleep(1)


def _run(settings: ContainerSettings, env: dict[str, str]) -> int:
    child = subprocess.Popen(python_command("researcher"), env=env)
    try:
        while True:
            with suppress(subprocess.TimeoutExpired):
                return child.wait(REPORT_EVERY_S)
            with suppress(redis.RedisError, OSError):  # no Redis or no password: the heartbeat grows old
                _pass_on(settings)
    except StopRequested:
        child.send_signal(signal.SIGTERM)
        child.wait()
        raise


def _pass_on(settings: ContainerSettings) -> None:
    """Write the researcher's own status, if it is fresh, as the heartbeat, and publish the state of the pull."""
    with closing(_open(settings)) as server:
        bus = RedisClient(server)
        status = bus.doing("researcher")
        pull_file = settings.pull_file if backend_named(settings.llm).needs_model_pull else None
        if pull_file is not None and pull_file.exists():
            bus.publish_status(PULL, Status.working(pull_file.read_text(encoding="utf-8", errors="replace").strip()))
    if status is not None:
        _beat(settings, status)


def _beat(settings: ContainerSettings, status: Status) -> None:
    """Write the heartbeat file. Where it cannot be written, it grows old and the health check fails."""
    if settings.heartbeat_file is not None:
        with suppress(OSError):
            write_whole(settings.heartbeat_file, str(status).encode())


def _stay(settings: ContainerSettings, status: Status) -> NoReturn:
    logger.info("%s; `docker compose restart researcher` goes on", status)
    while True:
        with closing(_open(settings)) as server:
            RedisClient(server).publish_status("researcher", status)
        _beat(settings, status)
        time.sleep(REPORT_EVERY_S)


if __name__ == "__main__":
    raise SystemExit(main())
