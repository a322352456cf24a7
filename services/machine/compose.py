"""A stack of containers: the only module that runs the compose CLI, and that reads the engine's containers through its
SDK.

Running containers are found by the project's name alone, without a compose file or an option, so it does not matter how
the stack was started. This module does not know what the services do.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import docker
from docker.errors import DockerException, ImageNotFound
from requests import RequestException

from researcher.errors import OvernightError
from services.machine.gpu_env import compose_settings
from trainer.jobs.environment import Program, environment

PROJECT = "overnight"  # the `name` in compose.yaml
LABEL = "com.docker.compose"
# Errors of the SDK when the engine does not answer any more.
ENGINE_AWAY = (DockerException, RequestException)
NO_COMPOSE_FILE = Path("/")  # compose searches for files upwards from its working folder


class StackError(OvernightError):
    """The stack cannot be read or changed. The next step is mostly a command."""

    def __str__(self) -> str:
        return f"{self.found}; next: {self.next_step}"


class CommandFailed(StackError):
    """A command in a service failed. The message is the command's own error alone, which may be more precise than the
    log."""

    def __init__(self, service: str, complaint: str) -> None:
        super().__init__(complaint, f"scripts/logs {service}")

    def __str__(self) -> str:
        return self.found


@dataclass(frozen=True)
class Container:
    """One container of the stack. `health` is None without a health check; `health_output` is the last output of the
    check. `port` is the port of this machine on which the container is published, None without one."""

    service: str
    id: str
    image: str
    state: str
    exit_code: int
    health: str | None
    health_output: str
    is_one_shot: bool
    started_at: datetime
    finished_at: datetime
    folder: Path
    files: tuple[Path, ...]
    port: int | None = None

    @property
    def is_well(self) -> bool:
        """True if the container runs and no health check contradicts, or if it is a one-shot that has ended with 0."""
        if self.is_one_shot and self.state == "exited":
            return self.exit_code == 0
        return self.state == "running" and self.health in (None, "healthy")

    def in_words(self) -> str:
        """Return the state as text: running, healthy; done; exited with 1; not started: it waits for others; restarting
        ..."""
        if self.state == "created":
            return "not started: it waits for others"
        if self.state == "exited":
            return "done" if self.is_one_shot and self.exit_code == 0 else f"exited with {self.exit_code}"
        return self.state if self.health is None or self.state != "running" else f"{self.state}, {self.health}"


@dataclass(frozen=True)
class ComposeProject:
    """Compose files in a folder. `files` are options that name files; without them compose finds the files itself, so
    that the settings are the same as those of a user's `docker compose up`.

    `limits` are passed in the environment, which compose prefers to gpu.env.
    """

    folder: Path
    files: Sequence[str]
    limits: Mapping[str, str]

    @property
    def environment(self) -> dict[str, str]:
        """The environment of `docker compose`: the settings of the shell that compose reads, and the limits."""
        return environment(Program.DOCKER, {**compose_settings(os.environ), **self.limits})

    def services(self) -> list[str]:
        """Return the names of the enabled services. Raises StackError if compose refuses the files."""
        return sorted(self._config("--services").split())

    def image(self, service: str) -> str:
        """Return the image of a service. Raises StackError if compose refuses the files."""
        image: str = self._service(service)["image"]
        return image

    def port(self, service: str) -> int | None:
        """Return the port of this machine that a service asks for: 0 for any free one, None for none. Raises StackError
        if compose refuses the files."""
        asked = self._service(service).get("ports", [])
        return int(asked[0]["published"]) if asked else None

    def _service(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._config("--format", "json"))["services"][name]
        return found

    def _config(self, *options: str) -> str:
        answer = subprocess.run(
            ["docker", "compose", *self.files, "config", *options],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        if answer.returncode != 0:
            last = (answer.stderr.strip().splitlines() or ["it says nothing"])[-1]
            raise StackError(f"compose refuses its files: {last}", "git diff compose.yaml services/compose.cpu.yaml")
        return answer.stdout


@dataclass(frozen=True)
class OneShot:
    """A command in a container of its own, without network and capabilities, that only reads volumes of the project.

    `volumes` gives the folder of each volume by its name in the compose file.
    """

    image: str
    user: str
    command: Sequence[str]
    volumes: Mapping[str, str]
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Stack:
    """A compose project on an engine, whether containers of it are up or not."""

    project: str
    engine: docker.DockerClient

    def containers(self) -> list[Container]:
        """Return the containers of the project, ended ones too, sorted by service."""
        labels = [f"{LABEL}.project={self.project}", f"{LABEL}.oneoff=False"]
        found = self.engine.containers.list(all=True, ignore_removed=True, filters={"label": labels})
        return sorted((container_of(each.attrs) for each in found), key=lambda each: each.service)

    def container(self, service: str) -> Container:
        """Return the running container of a service. Raises StackError if there is none."""
        for each in self.containers():
            if each.service == service and each.state == "running":
                return each
        raise StackError(f"no {service} of the stack {self.project} is running", "scripts/status, or scripts/up")

    def last_lines(self, container: Container, lines: int) -> list[str]:
        """Return the last lines of a container's log, without blank ones."""
        log = self.engine.containers.get(container.id).logs(tail=lines)
        return [line for line in log.decode(errors="replace").splitlines() if line.strip()]

    def volumes(self) -> list[str]:
        """Return the names of the project's volumes."""
        return sorted(self._volumes())

    def _volumes(self) -> dict[str, str]:
        """Return the engine's names of the project's volumes, by their names in the compose file."""
        found = self.engine.volumes.list(filters={"label": f"{LABEL}.project={self.project}"})
        return {each.attrs["Labels"][f"{LABEL}.volume"]: each.name for each in found}

    def up(self, project: ComposeProject, services: Sequence[str]) -> int:
        """Run `docker compose up` for some services and for those that they depend on, show its progress and wait until
        they are healthy; return the exit code."""
        return _compose(*project.files, "up", "--detach", "--wait", "--build", *services, project=project)

    def build(self, project: ComposeProject, service: str) -> int:
        """Build the image of a service, and show its progress; return the exit code."""
        return _compose(*project.files, "build", service, project=project)

    def start_beside(
        self, project: ComposeProject, services: Sequence[str], output: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        """Start the same without waiting for health; return the process. With --no-deps, Compose 2.26 takes each
        container for a changed one.

        It writes to `output` and has a session of its own, so that neither Ctrl-C nor the end of this process stops it.
        """
        return subprocess.Popen(
            ["docker", "compose", *project.files, "up", "--detach", *services],
            cwd=project.folder,
            env=project.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def execute(self, service: str, *command: str, terminal: bool) -> int:
        """Run a command in a service, on this terminal or for a pipe; return its exit code, or 1 if compose itself
        fails."""
        return self._by_name("exec", *([] if terminal else ["-T"]), service, *command)

    def output(self, service: str, *command: str) -> bytes:
        """Return the output of a command in a service. Raises CommandFailed with the command's own error."""
        found = self.engine.containers.get(self.container(service).id)
        code, (out, errors) = found.exec_run(list(command), demux=True)
        if code != 0:
            raise CommandFailed(
                service, _last_words((out or b"") + (errors or b""), f"{command[0]} in {service}", code)
            )
        return out or b""

    def made_by(self, one_shot: OneShot, folder: str) -> bytes:
        """Run a one-shot, and return a tar of the folder that it has made. Raises StackError if its image is missing,
        CommandFailed if it fails."""
        names = self._volumes()
        try:
            container = self.engine.containers.create(
                one_shot.image,
                list(one_shot.command),
                user=one_shot.user,
                environment=dict(one_shot.environment),
                volumes={names[name]: {"bind": place, "mode": "ro"} for name, place in one_shot.volumes.items()},
                network_mode="none",
                cap_drop=["ALL"],
                security_opt=["no-new-privileges:true"],
            )
        except ImageNotFound as error:
            raise StackError(f"the image {one_shot.image} is not here", "scripts/up, which builds it") from error
        try:
            container.start()
            code = container.wait()["StatusCode"]
            if code != 0:
                raise CommandFailed(one_shot.image, _last_words(container.logs(), one_shot.command[0], code))
            archive, _ = container.get_archive(folder)
            return b"".join(archive)
        finally:
            container.remove(force=True)

    def logs(self, *arguments: str) -> int:
        """Run `docker compose logs`; return the exit code."""
        return self._by_name("logs", *arguments)

    def down(self) -> int:
        """Run `docker compose down`, which removes containers and networks and keeps volumes; return the exit code."""
        return self._by_name("down")

    def _by_name(self, *arguments: str) -> int:
        nowhere = ComposeProject(NO_COMPOSE_FILE, (), {"COMPOSE_FILE": ""})
        return _compose("-p", self.project, *arguments, project=nowhere)


def container_of(facts: Mapping[str, Any]) -> Container:
    """Build a Container from the attributes that the engine reports."""
    state, labels = facts["State"], facts["Config"]["Labels"]
    checks = (state.get("Health") or {}).get("Log") or []
    return Container(
        service=labels[f"{LABEL}.service"],
        id=facts["Id"],
        image=facts["Image"],
        state=state["Status"],
        exit_code=state["ExitCode"],
        health=(state.get("Health") or {}).get("Status"),
        health_output=checks[-1]["Output"].strip() if checks else "",
        is_one_shot=facts["HostConfig"]["RestartPolicy"]["Name"] in ("", "no"),
        started_at=_time(state["StartedAt"]),
        finished_at=_time(state["FinishedAt"]),
        folder=Path(labels[f"{LABEL}.project.working_dir"]),
        files=tuple(map(Path, labels[f"{LABEL}.project.config_files"].split(","))),
        port=_published(facts["NetworkSettings"]["Ports"] or {}),
    )


def _published(ports: Mapping[str, Sequence[Mapping[str, str]] | None]) -> int | None:
    """Return the first port of this machine in the engine's table, which has None for a port that is not published."""
    return next((int(each["HostPort"]) for published in ports.values() for each in published or ()), None)


def _last_words(output: bytes, command: str, code: int) -> str:
    """Return the last line that a failed command printed, or its exit code."""
    lines = output.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"{command} ended with {code}"


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def _compose(*arguments: str, project: ComposeProject) -> int:
    return subprocess.run(
        ["docker", "compose", *arguments], cwd=project.folder, env=project.environment, check=False
    ).returncode
