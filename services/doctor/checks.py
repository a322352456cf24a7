"""The checks of each mode, their order, and which of them a failed check leaves out.

One fault gives one FAIL: a check that depends on a failed one is left out or says `skip`.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from researcher.errors import NotText
from researcher.llm.backends import backend_named
from services.dashboard.address import SERVICE as PAGE
from services.doctor import engine, gpu, host, model_and_data, subject
from services.doctor.engine import Engine
from services.doctor.environment import Environment, Mode, compose_files
from services.doctor.finding import Finding, Severity, fail, ok, skip
from services.machine.compose import Stack
from services.machine.gpu_env import DOT_ENV, GPU_ENV, faults, settings

# Space on disk, estimated from the parts: torch with CUDA takes about 8 GiB unpacked, Ollama's image 6, its default
# model 7, shards and the data made of them 8. Not measured on a GPU. The first start downloads and builds; later starts
# only write trials and logs.
FIRST_GIB = {Mode.LOCAL: 2, Mode.CPU: 6, Mode.GPU: 24}
LLM_GIB = 14
LOCAL_GPU_GIB = 10
LATER_GIB = {Mode.LOCAL: 1, Mode.CPU: 3, Mode.GPU: 3}
_MAKE_ROOM = "`docker system df` shows what fills the disk, `docker builder prune` removes old builds"


@dataclass(frozen=True)
class Project:
    """The parts of the merged compose files that the checks need, and the command that names the files."""

    name: str
    trainer_image: str
    published: tuple[host.Port, ...]
    compose: str


def examine(mode: Mode, facts: Environment) -> list[Finding]:
    """Run every check of a mode; return the findings in order."""
    return list(_of_local(facts) if mode is Mode.LOCAL else _of_stack(mode, facts))


def _of_local(facts: Environment) -> Iterator[Finding]:
    yield host.git(facts)
    found, installed_gpus = gpu.driver(Mode.LOCAL, facts)
    yield found
    profile = "cpu"
    if installed_gpus:
        found, profile = gpu.fitting(installed_gpus)
        yield found
    yield host.packages(facts, installed_gpus)
    yield host.candidates(facts)
    yield host.redis_server(facts)
    yield subject.of_this_user(facts)
    wanted_gib = LOCAL_GPU_GIB if installed_gpus else FIRST_GIB[Mode.LOCAL]
    if facts.state.data.exists():
        wanted_gib = LATER_GIB[Mode.LOCAL]
    yield host.disk(facts, facts.state.root, wanted_gib, "free some, or keep the run elsewhere: --state FOLDER")
    yield model_and_data.model_here(facts, profile)
    yield model_and_data.text_here(facts)
    yield host.clock(facts)


def _of_stack(mode: Mode, facts: Environment) -> Iterator[Finding]:
    found, held = examine_settings(mode, facts)
    yield from found
    with ExitStack() as closing:
        finding, reached = engine.reach(facts)
        yield finding
        if reached is not None:
            closing.callback(reached.client.close)
        found, project = _plugins(mode, facts, held, reached)
        yield from found
        if mode is Mode.GPU:
            yield from _of_gpu(facts, held, reached, project)
        yield skip("subject", "needs gpu.env") if held is None else subject.in_containers(facts, held)
        if reached is None or held is None or project is None:
            yield from (skip(name, "see above") for name in ("disk", "ports", "model", "data"))
        else:
            yield from _of_project(mode, facts, held, reached, project)
    yield host.clock(facts)


def examine_settings(mode: Mode, facts: Environment) -> tuple[list[Finding], dict[str, str] | None]:
    """Return the findings about the files of settings, and the settings by key, None if a file is wrong."""
    try:
        gpu_env, *others = facts.settings_files(mode)
    except NotText as error:
        return [fail("gpu.env", str(error), "the same command again")], None
    except OSError as error:
        return [fail("gpu.env", str(error), "git checkout gpu.env")], None
    wrong = faults(gpu_env, tuple(others), facts.environment)
    if wrong:
        return [fail("gpu.env", fault.found, fault.next_step) for fault in wrong], None
    if (found := _what_compose_reads(facts)) is not None:
        return [found], None
    held = settings(gpu_env, tuple(others), facts.environment)
    files = " and ".join(entries.file for entries in (gpu_env, *others))
    return [ok("gpu.env", f"{len(held)} settings from {files}")], held


def _what_compose_reads(facts: Environment) -> Finding | None:
    """Compose reads .env, a link to gpu.env. A ZIP, or git without links, leaves a text file or nothing there."""
    linked = facts.root / DOT_ENV
    if linked.is_file() and linked.read_bytes() == (facts.root / GPU_ENV).read_bytes():
        return None
    found = f"{DOT_ENV} is not the link to {GPU_ENV} that compose reads its settings through"
    return fail("gpu.env", found, f"ln -sf {GPU_ENV} {DOT_ENV}, or where links do not work: cp {GPU_ENV} {DOT_ENV}")


def _plugins(
    mode: Mode, facts: Environment, held: Mapping[str, str] | None, reached: Engine | None
) -> tuple[list[Finding], Project | None]:
    names = ("compose", "buildx", "files")
    if reached is None and facts.which("docker") is None:
        return [skip(name, "needs Docker") for name in names], None
    found = [engine.compose(facts), engine.buildx(facts)]
    if held is None or any(finding.severity is Severity.FAIL for finding in found):
        return [*found, skip("files", "see above")], None
    finding, project = _files(facts, compose_files(mode, by_cdi=_gets_gpu_by_cdi(facts, reached)))
    return [*found, finding], project


def _gets_gpu_by_cdi(facts: Environment, reached: Engine | None) -> bool:
    return reached is not None and engine.has_only_cdi(reached.facts, facts.which(engine.HOOK))


def _files(facts: Environment, files: Sequence[str]) -> tuple[Finding, Project | None]:
    """Test whether compose accepts its files with the settings in force."""
    command = ("docker", "compose", *files)
    try:
        answer = facts.run(*command, "config", "--format", "json")
    except subprocess.TimeoutExpired as error:
        return fail("files", f"{error}", "the same once more"), None
    if answer.returncode != 0:
        last = (answer.stderr.strip().splitlines() or ["no word of why"])[-1]
        return fail("files", f"compose refuses them: {last}", "git diff compose.yaml services/compose.cpu.yaml"), None
    merged = json.loads(answer.stdout)
    services = merged["services"]
    published = tuple(
        (port.get("host_ip", "0.0.0.0"), int(port["published"]))
        for name, service in services.items()
        for port in service.get("ports", [])
        if port.get("published") and name != PAGE  # `scripts/up` gives the page another port if its own is taken
    )
    project = Project(merged["name"], services["trainer"]["image"], published, " ".join(command))
    return ok("files", f"{len(services)} services as {project.name}"), project


def _of_gpu(
    facts: Environment, held: Mapping[str, str] | None, reached: Engine | None, project: Project | None
) -> Iterator[Finding]:
    build = "" if held is None else held.get("TORCH_BUILD", "")
    found, installed_gpus = gpu.driver(Mode.GPU, facts, build)
    yield found
    if not installed_gpus or held is None:
        yield from (skip(name, "see above") for name in ("GPU", "split", "toolkit", "inside"))
        return
    found, chosen = gpu.chosen(installed_gpus, held.get("GPU_UUID", ""), build)
    yield found
    yield skip("split", "see GPU") if chosen is None else gpu.split(chosen, held)
    if reached is None:
        yield from (skip(name, "needs the engine") for name in ("toolkit", "inside"))
        return
    toolkit = engine.toolkit(facts, reached)
    yield toolkit
    if toolkit.severity is Severity.FAIL or project is None or found.severity is Severity.FAIL:
        yield skip("inside", "see above")
    else:
        by_cdi = _gets_gpu_by_cdi(facts, reached)
        yield engine.gpu_inside(reached, project.trainer_image, held.get("GPU_UUID", ""), by_cdi=by_cdi)


def _of_project(
    mode: Mode, facts: Environment, held: Mapping[str, str], reached: Engine, project: Project
) -> Iterator[Finding]:
    stack = Stack(project.name, reached.client)
    if facts.environment.get("DOCKER_HOST", "unix:").startswith("unix:"):
        wanted_gib = FIRST_GIB[mode] + (LLM_GIB if backend_named(held["LLM"]).needs_model_pull else 0)
        if engine.is_built(reached, project.trainer_image):
            wanted_gib = LATER_GIB[mode]
        yield host.disk(facts, Path(reached.facts["DockerRootDir"]), wanted_gib, _MAKE_ROOM)
    else:
        yield skip("disk", "the engine is another machine's")
    yield from host.ports(project.published, engine.listened_on(stack))
    yield model_and_data.model_inside(stack, held, project.compose, facts.root)
    yield model_and_data.text_inside(stack, project.compose)
