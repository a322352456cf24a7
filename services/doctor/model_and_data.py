"""The LLM's model and the prepared text, in the containers of a stack or on this machine.

The start of a run downloads a missing model or text. Therefore a missing one is `skip` before the first start and
`warn` later, and prevents no start.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import httpx
from docker.errors import NotFound
from pydantic import TypeAdapter, ValidationError

from researcher.config.settings import TABLE
from researcher.errors import BadValue, LlmUnavailable
from researcher.llm.backends import LlmBackend, backend_named
from researcher.llm.client import LlmOptions
from researcher.llm.gpu_memory_split import placement_for
from researcher.llm.ollama_api import base_url, same_model
from researcher.llm.stream import tls_context
from services.doctor.environment import Environment
from services.doctor.finding import Finding, fail, ok, skip, warn
from services.machine.compose import Stack, StackError

MANIFEST_INSIDE = "/state/data/manifest.json"
_ANSWER_S = 3.0
_ALONE = "the optimiser works alone"


def model_inside(stack: Stack, held: Mapping[str, str], compose: str, root: Path) -> Finding:
    """Test that the stack's Ollama has MODEL, or that the endpoint answers. `compose`: the command that names the stack
    in `root`."""
    if not (backend := backend_named(held["LLM"])).needs_model_pull:
        return _without_a_pull(backend, held, root)
    if not any(each.service == "ollama" and each.state == "running" for each in stack.containers()):
        return skip("model", "the stack is not up; its start pulls the model")
    try:
        listed = stack.output("ollama", "ollama", "list").decode(errors="replace")
    except StackError as error:
        return warn("model", f"ollama does not say what it has: {error.found}", f"{compose} restart ollama")
    names = {line.split()[0] for line in listed.splitlines()[1:] if line.strip()}
    return _among(held["MODEL"], names) or warn(
        "model", f"ollama has no {held['MODEL']} yet: {_ALONE}", f"{compose} logs model, or set another MODEL"
    )


def model_here(facts: Environment, profile: str) -> Finding:
    """Test that an Ollama of this machine has the model of a profile; without a model the optimiser works alone."""
    try:
        backend = backend_named(facts.environment.get("LLM"))
        if not backend.needs_model_pull:
            return _without_a_pull(backend, facts.environment, Path.cwd())
        url = base_url(facts.environment.get("OLLAMA_HOST") or TABLE["OLLAMA_HOST"].default)
    except BadValue as error:
        return fail("model", error.found, error.next_step)
    wanted = facts.environment.get("MODEL") or placement_for(profile).model
    try:
        answer = httpx.get(f"{url}/api/tags", timeout=_ANSWER_S, trust_env=False, verify=tls_context(url))
        answer.raise_for_status()
        names = {str(model["name"]) for model in answer.json()["models"]}
    except LlmUnavailable as error:
        return warn("model", f"{error}: {_ALONE}", "unset SSL_CERT_FILE")
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        return warn("model", f"no Ollama answers at {url} ({type(error).__name__}): {_ALONE}", "ollama serve")
    return _among(wanted, names) or warn(
        "model", f"the Ollama at {url} has no {wanted}: {_ALONE}", f"overnight pull {wanted}"
    )


def _without_a_pull(backend: LlmBackend, held: Mapping[str, str], root: Path) -> Finding:
    """Test the backend with a request that costs nothing. Only the first question shows whether an endpoint has the
    model."""
    if backend.client is None:
        return skip("model", f"LLM={backend.name}: {_ALONE}")
    file = held.get("OPENAI_API_KEY_FILE") or None
    key_file = None if file is None else root / Path(file).expanduser()
    options = LlmOptions(model=held.get("MODEL"), url=held.get("OPENAI_BASE_URL"), key_file=key_file)
    try:
        client = backend.client(options)
        client.check_available()
    except BadValue as error:
        return fail("model", f"OPENAI_BASE_URL: {error.found}", error.next_step)
    except LlmUnavailable as error:
        return warn("model", f"{error}: {_ALONE}", "fix OPENAI_BASE_URL or OPENAI_API_KEY_FILE")
    return ok("model", f"{client.model} is asked for at {client.url}")


def _among(model: str, names: set[str]) -> Finding | None:
    return next((ok("model", name) for name in sorted(names) if same_model(name, model)), None)


def text_inside(stack: Stack, compose: str) -> Finding:
    """Test that the stack's data volume holds a prepared text, by reading it from the container that prepared it."""
    prepared = [each for each in stack.containers() if each.service == "data"]
    if not prepared:
        return skip("data", "the stack is not up; its start prepares the text")
    if prepared[0].state == "running":
        return skip("data", f"being prepared: {compose} logs data")
    try:
        chunks, _ = stack.engine.containers.get(prepared[0].id).get_archive(MANIFEST_INSIDE)
        archive = io.BytesIO(b"".join(chunks))
    except NotFound:
        return warn("data", "the volume holds no prepared text", f"{compose} up data")
    with tarfile.open(fileobj=archive) as tar:
        manifest = tar.extractfile(tar.getmembers()[0])
        return _finding(
            manifest.read() if manifest else b"",
            f"{compose} down && docker volume rm {stack.project}_data, and the next start prepares it again",
        )


def text_here(facts: Environment) -> Finding:
    """Test that the state folder holds a prepared text."""
    try:
        manifest = (facts.state.data / "manifest.json").read_bytes()
    except FileNotFoundError:
        return skip("data", "none yet; the first start prepares the text")
    except PermissionError:
        return fail("data", f"{facts.state.data} cannot be read", f'sudo chown -R "$USER" {facts.state.data}')
    return _finding(manifest, f"rm -r {facts.state.data}, and the next start prepares it again")


def _finding(manifest: bytes, fix: str) -> Finding:
    from trainer.data.manifest import Manifest  # noqa: PLC0415 - imports numpy and the tokenizer library
    from trainer.data.task_data import TaskData  # noqa: PLC0415 - likewise

    try:
        if (held := TaskData.from_manifest(manifest)) is not None:
            return ok("data", f"a task: {held.task.metric.name}, {held.task.degree}")
        prepared = TypeAdapter(Manifest).validate_json(manifest)
    except ValidationError as error:
        return fail("data", f"the manifest is damaged ({error.error_count()} faults)", fix)
    return ok("data", f"{prepared.text}, {prepared.rows['train']} rows to train on")
