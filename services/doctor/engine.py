"""Docker on this machine: the engine, its command line plugins, and whether a container gets the GPU."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import docker
from docker.errors import APIError, DockerException, ImageNotFound
from docker.types import DeviceRequest

from services.doctor.environment import Environment
from services.doctor.finding import Finding, fail, ok, skip
from services.machine.compose import Stack
from services.redis.binary import parse_version

ENGINE = "20.10"  # the first version whose BuildKit mounts the locks during a build
COMPOSE = "2.24.4"  # the first version with !override; optional env files came with 2.24.0
PACKAGES = "sudo apt-get install docker.io docker-compose-v2 docker-buildx (Ubuntu 24.04 or newer)"
TOOLKIT = (
    "sudo apt-get install nvidia-container-toolkit && sudo nvidia-ctk runtime configure --runtime=docker"
    " && sudo systemctl restart docker"
)
HOOK = "nvidia-container-runtime-hook"
CDI_DEVICE = "nvidia.com/gpu"
_INSIDE_S = 60


@dataclass(frozen=True)
class Engine:
    """An engine that answers, and the facts that it reports about itself."""

    client: docker.DockerClient
    facts: Mapping[str, Any]


def reach(facts: Environment) -> tuple[Finding, Engine | None]:
    """Test that the engine answers and is new enough. The caller closes the engine's client."""
    try:
        client = facts.connect()
    except (DockerException, OSError) as error:
        return _unreachable(facts, error), None
    try:
        engine = Engine(client, client.info())
    except (DockerException, OSError) as error:
        client.close()
        return _unreachable(facts, error), None
    version = engine.facts["ServerVersion"]
    wanted = f">= {ENGINE}"
    if parse_version(version) < parse_version(ENGINE):
        return fail("engine", version, PACKAGES, wanted), engine
    return ok("engine", version, wanted), engine


def _unreachable(facts: Environment, error: BaseException) -> Finding:
    causes = list(_causes(error))
    host = facts.environment.get("DOCKER_HOST")
    if any(isinstance(cause, PermissionError) for cause in causes):
        return fail("engine", "this user may not speak to it", 'sudo usermod -aG docker "$USER", then log in again')
    if host:
        return fail("engine", f"none answers at DOCKER_HOST={host}", "unset DOCKER_HOST, or start the engine there")
    if facts.which("dockerd") is None and facts.which("docker") is None:
        return fail("engine", "Docker is not installed", f"{PACKAGES}; or without Docker: scripts/up --local")
    if any(isinstance(cause, (FileNotFoundError, ConnectionRefusedError)) for cause in causes):
        return fail("engine", "Docker is installed, its engine does not run", "sudo systemctl start docker")
    return fail("engine", f"it does not answer: {error}", "sudo systemctl restart docker")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def compose(facts: Environment) -> Finding:
    """Test that the compose plugin exists and is new enough."""
    version = _asked(facts, "docker", "compose", "version", "--short")
    wanted = f">= {COMPOSE}"
    if version is None:
        return fail("compose", "`docker compose` does not work", PACKAGES, wanted)
    if parse_version(version.removeprefix("v")) < parse_version(COMPOSE):
        return fail("compose", version, f"{PACKAGES}; docker-compose on Debian 13", wanted)
    return ok("compose", version, wanted)


def buildx(facts: Environment) -> Finding:
    """Test that the plugin exists that builds images with BuildKit."""
    version = _asked(facts, "docker", "buildx", "version")
    if version is None:
        return fail("buildx", "`docker buildx` does not work", "sudo apt-get install docker-buildx", "any version")
    return ok("buildx", version.split()[1] if len(version.split()) > 1 else version)


def _asked(facts: Environment, *command: str) -> str | None:
    try:
        answer = facts.run(*command)
    except (FileNotFoundError, PermissionError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 and answer.stdout.strip() else None


def toolkit(facts: Environment, engine: Engine) -> Finding:
    """Test that the engine can give a GPU to a container: by NVIDIA's runtime or hook, or by CDI devices."""
    if has_only_cdi(engine.facts, facts.which(HOOK)):
        return ok("toolkit", "the engine has the GPU as a CDI device, so services/compose.cdi.yaml is used")
    if "nvidia" in engine.facts.get("Runtimes", {}):
        return ok("toolkit", "the engine has NVIDIA's runtime")
    if facts.which(HOOK):
        return ok("toolkit", "nvidia-container-toolkit is installed")
    return fail("toolkit", "the engine has no NVIDIA runtime", TOOLKIT, "nvidia-container-toolkit")


def has_only_cdi(facts: Mapping[str, Any], hook: str | None) -> bool:
    """Whether a container gets the GPU only as a CDI device: the engine knows one, and has neither NVIDIA's runtime nor
    its `hook`."""
    by_cdi = any(CDI_DEVICE in str(device) for device in facts.get("DiscoveredDevices") or [])
    return by_cdi and hook is None and "nvidia" not in facts.get("Runtimes", {})


def is_built(engine: Engine, image: str) -> bool:
    """Whether the engine has the image."""
    try:
        return engine.client.images.get(image) is not None
    except ImageNotFound:
        return False


def listened_on(stack: Stack) -> set[tuple[str, int]]:
    """Return the addresses (host, port) that running containers of the stack have published."""
    return {
        (bound["HostIp"], int(bound["HostPort"]))
        for each in stack.containers()
        for bindings in stack.engine.containers.get(each.id).ports.values()
        for bound in bindings or []
    }


def gpu_inside(engine: Engine, image: str, uuid: str, *, by_cdi: bool = False) -> Finding:
    """Test that a container of the trainer's image sees the GPU as compose gives it. The container is made for this and
    removed."""
    if not is_built(engine, image):
        return skip("inside", f"{image} is built at the first start; whether it sees the GPU shows then")
    driver, device = ("cdi", f"{CDI_DEVICE}={uuid or '0'}") if by_cdi else ("nvidia", uuid or "0")
    request = DeviceRequest(driver=driver, device_ids=[device], capabilities=[["gpu"]])
    try:
        code, output = _run_inside(engine.client, image, request)
    except (APIError, OSError) as error:
        return fail("inside", f"no container gets the GPU: {getattr(error, 'explanation', None) or error}", TOOLKIT)
    if code != 0 or "GPU" not in output:
        return fail("inside", f"nvidia-smi in a container ends with {code}: {output}", TOOLKIT, "the GPU")
    return ok("inside", f"a container sees {output.splitlines()[0]}")


def _run_inside(client: docker.DockerClient, image: str, request: DeviceRequest) -> tuple[int, str]:
    container = client.containers.create(
        image,
        ["nvidia-smi", "-L"],
        device_requests=[request],
        environment={"NVIDIA_DRIVER_CAPABILITIES": "compute,utility"},
        network_mode="none",
    )
    try:
        container.start()
        code = container.wait(timeout=_INSIDE_S)["StatusCode"]
        return code, container.logs().decode(errors="replace").strip()
    finally:
        container.remove(force=True)
