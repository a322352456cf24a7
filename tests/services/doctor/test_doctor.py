"""The doctor: each bad situation is one FAIL with the command that fixes it, on real engines, folders and programs."""

from __future__ import annotations

import gc
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from uuid import uuid4

import docker
import pytest
from docker.errors import DockerException
from hypothesis import given
from hypothesis import strategies as st

from services.doctor import Environment, Finding, Mode, Severity, examine, exit_code, this_machine, write_report
from services.doctor import engine as engine_checks
from services.doctor.checks import examine_settings
from services.doctor.environment import compose_files, free_bytes
from services.doctor.gpu import chosen, split
from services.doctor.host import clock, packages, ports
from services.doctor.report import without_secrets
from services.doctor.subject import in_containers
from services.machine.gpu_env import KEYS
from services.machine.gpus import Gpu, GpuFault, InstalledGpu
from services.machine.installation import installing
from services.machine.state import CHOICES_FILE, State
from tests import ROOT
from tests.doubles.ollama_server import ollama_double
from tests.doubles.openai_server import Reply, openai_double, refused, spoken
from trainer.data.manifest import FORMAT, Manifest, write_manifest
from trainer.data.task_data import TaskData, write_task_data
from trainer.jobs import PROFILES, Profile
from trainer.jobs.metric import Direction, Metric
from trainer.jobs.task import Task

BASE_IMAGE = "overnight-test/python:3.11"
GIB = 2**30
H100 = InstalledGpu("GPU-11111111-2222-3333-4444-555555555555", "580.95.05", Gpu("NVIDIA H100 80GB HBM3", 81559))
A6000 = InstalledGpu("GPU-66666666-7777-8888-9999-000000000000", "580.95.05", Gpu("RTX A6000", 46068))
SHELL = {name: value for name, value in os.environ.items() if name not in {*KEYS, "DOCKER_HOST"}}
COMMAND_WITHOUT_ENGINE = """case "$*" in
    "compose version --short") echo 2.26.1;;
    "buildx version") echo 0.13.1;;
    *config*) echo '{"name": "some", "services": {"trainer": {"image": "some"}}}';;
    *) exit 1;;
esac"""
MANIFEST = Manifest(
    profile="cpu",
    text="plays",
    source="38 plays",
    how_split="by play",
    context=256,
    vocab_size=1024,
    rows={"train": 4321, "val": 1, "heldout": 1},
    documents={},
    bytes={},
    left_out={},
    dropped_tokens={},
    sizes={},
    sha256={},
    digest="0",
    unseen="words",
    format=FORMAT,
)


@pytest.fixture
def left_sockets() -> Iterator[None]:
    """Collected within the test that left them, where their warning is let pass."""
    yield
    gc.collect()


def leaves_a_socket(test: Callable[..., None]) -> Callable[..., None]:
    """The SDK leaves the socket of a connection that failed to the garbage collector."""
    ignored = "ignore:Exception ignored .*<socket:pytest.PytestUnraisableExceptionWarning"
    return pytest.mark.filterwarnings(ignored)(pytest.mark.usefixtures("left_sockets")(test))


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What the checks read of this repository, to be broken; no image of its trainer is ever built."""
    root = tmp_path / "clone"
    (root / "services").mkdir(parents=True)
    for name in ("compose.yaml", "gpu.env", "services/compose.cpu.yaml", "services/cpu.env"):
        shutil.copy(ROOT / name, root / name)
    (root / ".env").symlink_to("gpu.env")
    edit(root / "compose.yaml", "overnight/trainer:", "overnight/never-built:")
    return root


@pytest.fixture
def well(clone: Path, tmp_path: Path) -> Environment:
    """This machine, with the clone and an empty state folder; how full its disk happens to be is no test's matter."""
    return replace(this_machine(clone, State(tmp_path / "state"), SHELL), free_bytes=lambda _: 1000 * GIB)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def only_failure(findings: list[Finding]) -> str:
    failed = [finding.line() for finding in findings if finding.severity is Severity.FAIL]
    assert len(failed) == 1, "\n".join(finding.line() for finding in findings)
    assert exit_code(findings) == 1
    assert "\n" not in failed[0]
    return failed[0]


def named(findings: list[Finding], name: str) -> Finding:
    return next(finding for finding in findings if finding.name == name)


def program(folder: Path, name: str, script: str) -> str:
    """A PATH that begins with a program of this name."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def listens_nowhere(folder: Path) -> docker.DockerClient:
    """StoppedEngine: its socket is there, nobody listens."""
    path = folder / "docker.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    return docker.DockerClient(base_url=f"unix://{path}")


def forbids() -> docker.DockerClient:
    """ForbiddenEngine: root may open every socket, so the refusal is told, not met."""
    raise DockerException("Error while fetching server API version") from PermissionError(13, "Permission denied")


# --- no engine -----------------------------------------------------------------------------------------------------


@leaves_a_socket
@pytest.mark.parametrize("mode", [Mode.CPU, Mode.GPU])
def test_machine_without_docker_is_told_what_to_install(well: Environment, tmp_path: Path, mode: Mode) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    facts = replace(
        well,
        environment={"PATH": str(empty)},
        connect=lambda: docker.DockerClient(base_url=f"unix://{tmp_path}/docker.sock"),
        installed_gpus=lambda: [H100],
    )

    line = only_failure(examine(mode, facts))

    assert "engine   Docker is not installed -> sudo apt-get install docker.io" in line
    assert "scripts/up --local" in line


@leaves_a_socket
def test_engine_that_does_not_run_is_told_apart(well: Environment, tmp_path: Path) -> None:
    path = program(tmp_path / "bin", "docker", COMMAND_WITHOUT_ENGINE)
    facts = replace(well, environment={"PATH": path}, connect=lambda: listens_nowhere(tmp_path))

    line = only_failure(examine(Mode.CPU, facts))

    assert line.endswith("its engine does not run -> sudo systemctl start docker")


def test_user_who_may_not_speak_to_the_engine_is_told_apart(well: Environment, tmp_path: Path) -> None:
    path = program(tmp_path / "bin", "docker", COMMAND_WITHOUT_ENGINE)
    facts = replace(well, environment={"PATH": path}, connect=forbids)

    line = only_failure(examine(Mode.CPU, facts))

    assert 'sudo usermod -aG docker "$USER"' in line


@leaves_a_socket
def test_docker_host_that_leads_nowhere_is_named(well: Environment, tmp_path: Path) -> None:
    host = f"unix://{tmp_path}/none.sock"
    facts = this_machine(well.root, well.state, SHELL | {"DOCKER_HOST": host})

    finding, reached = engine_checks.reach(facts)

    assert reached is None
    assert (
        finding.line()
        == f"FAIL engine   none answers at DOCKER_HOST={host} -> unset DOCKER_HOST, or start the engine there"
    )


# --- with an engine ------------------------------------------------------------------------------------------------


@pytest.mark.docker
def test_machine_that_is_well_has_no_failure_and_nothing_is_left_behind(well: Environment) -> None:
    before = containers()

    findings = examine(Mode.CPU, well)

    assert [finding.line() for finding in findings if finding.severity in (Severity.FAIL, Severity.WARN)] == []
    assert exit_code(findings) == 0
    assert containers() == before


def old_compose(facts: Environment, folder: Path) -> Environment:
    real = shutil.which("docker")
    script = f'if [ "$1 $2" = "compose version" ]; then echo v2.20.3; else exec {real} "$@"; fi'
    return replace(facts, environment=SHELL | {"PATH": program(folder, "docker", script)})


def no_buildx(facts: Environment, folder: Path) -> Environment:
    real = shutil.which("docker")
    script = f'if [ "$1" = buildx ]; then exit 1; else exec {real} "$@"; fi'
    return replace(facts, environment=SHELL | {"PATH": program(folder, "docker", script)})


def full_disk(facts: Environment, _folder: Path) -> Environment:
    return replace(facts, free_bytes=lambda _: GIB // 2)


def unknown_key(facts: Environment, _folder: Path) -> Environment:
    edit(facts.root / "gpu.env", "NUM_CTX=", "NUMCTX=8192")
    return facts


def bad_value(facts: Environment, _folder: Path) -> Environment:
    edit(facts.root / "gpu.env", "EXPERIMENTS=", "EXPERIMENTS=a lot")
    return facts


def missing_gpu_env(facts: Environment, _folder: Path) -> Environment:
    (facts.root / "gpu.env").unlink()
    return facts


def no_such_subject(facts: Environment, folder: Path) -> Environment:
    edit(facts.root / "gpu.env", "SUBJECT_DIR=", f"SUBJECT_DIR={folder}/nowhere")
    return facts


def broken_compose_file(facts: Environment, _folder: Path) -> Environment:
    edit(facts.root / "compose.yaml", "networks: [fetch]", "networks: [fetched]")
    return facts


@pytest.mark.parametrize("content", [b"gpu.env", b"LLM=none\n", None], ids=["text of the link", "another file", "none"])
def test_a_dot_env_that_is_not_the_link_is_named_with_the_command_that_makes_it(
    well: Environment, content: bytes | None
) -> None:
    (well.root / ".env").unlink()
    if content is not None:
        (well.root / ".env").write_bytes(content)

    (finding,), held = examine_settings(Mode.CPU, well)

    assert (finding.severity, finding.name, held) == (Severity.FAIL, "gpu.env", None)
    assert ".env is not the link to gpu.env" in finding.found
    assert "ln -sf gpu.env .env" in finding.fix


@pytest.mark.parametrize("name", ["gpu.env", "gpu.local.env"])
@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_settings_that_are_not_utf8_are_named_by_their_file(well: Environment, name: str, encoding: str) -> None:
    (well.root / name).write_bytes("TAG=größer\n".encode(encoding))

    (finding,), held = examine_settings(Mode.CPU, well)

    assert (finding.severity, finding.name, held) == (Severity.FAIL, "gpu.env", None)
    assert f"{name} is not text in UTF-8" in finding.found


def test_a_dot_env_that_is_a_copy_serves_where_links_do_not_work(well: Environment) -> None:
    (well.root / ".env").unlink()
    shutil.copy(well.root / "gpu.env", well.root / ".env")

    (finding,), held = examine_settings(Mode.CPU, well)

    assert (finding.severity, finding.name) == (Severity.OK, "gpu.env")
    assert held is not None


@pytest.mark.docker
@pytest.mark.parametrize(
    ("fault", "said", "fix"),
    [
        (old_compose, "compose  v2.20.3 (wanted >= 2.24.4)", "sudo apt-get install docker.io docker-compose-v2"),
        (no_buildx, "buildx   `docker buildx` does not work", "sudo apt-get install docker-buildx"),
        (full_disk, "disk     0.5 GiB free in ", "`docker system df`"),
        (unknown_key, "NUMCTX is not a setting", "did you mean NUM_CTX?"),
        (bad_value, "EXPERIMENTS=a lot is not a whole number", "write for example EXPERIMENTS=100"),
        (missing_gpu_env, "gpu.env", "git checkout gpu.env"),
        (no_such_subject, "nowhere is not there", "git clone"),
        (broken_compose_file, "files    compose refuses them: ", "git diff compose.yaml"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_one_fault_is_one_failure_with_what_mends_it(
    well: Environment, tmp_path: Path, fault: Callable[[Environment, Path], Environment], said: str, fix: str
) -> None:
    line = only_failure(examine(Mode.CPU, fault(well, tmp_path / "bin")))

    found, arrow, mends = line.partition(" -> ")
    assert arrow
    assert said in found
    assert fix in mends


@pytest.mark.docker
def test_port_that_another_program_holds_is_named(well: Environment) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        number = other.getsockname()[1]
        edit(
            well.root / "services/compose.cpu.yaml",
            "  researcher:\n",
            f'  redis: {{ports: ["127.0.0.1:{number}:6379"]}}\n  researcher:\n',
        )

        line = only_failure(examine(Mode.CPU, well))

    assert f"127.0.0.1:{number} is taken -> sudo ss -ltnp 'sport = :{number}'" in line


@pytest.mark.docker
def test_a_taken_port_of_the_page_is_no_failure_because_the_page_gets_another(well: Environment) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        facts = replace(well, environment={**well.environment, "PAGE_PORT": str(other.getsockname()[1])})

        assert [str(each) for each in examine(Mode.CPU, facts) if each.severity is Severity.FAIL] == []


@pytest.mark.docker
def test_engine_without_nvidias_toolkit_is_told_what_to_install(well: Environment) -> None:
    facts = replace(well, installed_gpus=lambda: [H100])

    line = only_failure(examine(Mode.GPU, facts))

    assert "toolkit  the engine has no NVIDIA runtime" in line
    assert " -> sudo apt-get install nvidia-container-toolkit && " in line


@pytest.mark.docker
def test_split_that_cannot_fit_is_refused_with_its_arithmetic(well: Environment, tmp_path: Path) -> None:
    path = program(tmp_path / "bin", "nvidia-container-runtime-hook", "exit 0")
    (well.root / "gpu.local.env").write_text("PROFILE=48gb\nTRAINER_CAP_MIB=35840\n")
    facts = replace(well, installed_gpus=lambda: [A6000], environment=SHELL | {"PATH": path})

    line = only_failure(examine(Mode.GPU, facts))

    assert "split    profile 48gb: 46068 total - 12288 LLM - 35840 trainer - 2048 margin = -4108 MiB" in line
    assert " -> lower TRAINER_CAP_MIB to 31732, in gpu.env or gpu.local.env" in line


@pytest.mark.docker
def test_gpu_that_no_container_gets_is_told_and_the_container_is_removed() -> None:
    before = containers()
    with closing(docker.from_env()) as client:
        finding = engine_checks.gpu_inside(engine_checks.Engine(client, client.info()), BASE_IMAGE, "")

    assert finding.severity is Severity.FAIL
    assert "no container gets the GPU: could not select device driver" in finding.found
    assert "nvidia-ctk runtime configure" in finding.fix
    assert containers() == before


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[Environment]:
    """A stack that is up: an `ollama` which has one model, and a `data` whose volume holds what the test puts there."""
    root = tmp_path / "toy"
    (root / "services").mkdir(parents=True)
    shutil.copy(ROOT / "gpu.env", root / "gpu.env")
    shutil.copy(ROOT / "services/cpu.env", root / "services/cpu.env")
    (root / ".env").symlink_to("gpu.env")
    program(root / "bin", "ollama", "printf 'NAME  ID  SIZE\\nqwen3.5:4b  abc  3.4 GB\\nother:latest  def  1 GB\\n'")
    (root / "text").mkdir()
    (root / "services/compose.cpu.yaml").write_text("services: {}\n")
    (root / "compose.yaml").write_text(
        f"name: doctor-{uuid4().hex[:8]}\n"
        f"x-any: &any {{image: '{BASE_IMAGE}', init: true, network_mode: none, stop_grace_period: 1s}}\n"
        "services:\n"
        "  ollama: {<<: *any, command: [sleep, infinity], volumes: ['./bin/ollama:/usr/local/bin/ollama:ro']}\n"
        "  data: {<<: *any, command: ['true'], volumes: ['./text:/state/data']}\n"
        "  trainer: {<<: *any, command: [sleep, infinity]}\n"
    )
    facts = this_machine(root, State(tmp_path / "state"), SHELL)
    try:
        compose(facts, "up", "--detach", "--quiet-pull")
        with closing(docker.from_env()) as client:
            for each in client.containers.list(
                all=True, filters={"label": f"com.docker.compose.project={project_of(root)}"}
            ):
                if each.labels["com.docker.compose.service"] == "data":
                    each.wait(timeout=60)
        yield facts
    finally:
        compose(facts, "down", "--volumes", "--timeout", "1")


def project_of(root: Path) -> str:
    return (root / "compose.yaml").read_text().split()[1]


def compose(facts: Environment, *arguments: str) -> None:
    answer = facts.run("docker", "compose", *arguments)
    assert answer.returncode == 0, answer.stderr


def containers() -> set[str]:
    with closing(docker.from_env()) as client:
        return {each.id for each in client.containers.list(all=True) if "com.docker.compose.project" not in each.labels}


@pytest.mark.docker
def test_stack_that_is_up_is_asked_for_its_model_and_its_text(toy: Environment) -> None:
    write_manifest(toy.root / "text", MANIFEST)

    findings = examine(Mode.CPU, toy)

    assert named(findings, "model").line() == "ok   model    qwen3.5:4b"
    assert named(findings, "data").line() == "ok   data     plays, 4321 rows to train on"
    assert exit_code(findings) == 0


@pytest.mark.docker
def test_model_that_the_stack_does_not_have_is_told_with_how_to_pull_it_and_keeps_nothing_from_starting(
    toy: Environment,
) -> None:
    write_manifest(toy.root / "text", MANIFEST)
    (toy.root / "gpu.local.env").write_text("MODEL=qwen3.5:27b\n")

    findings = examine(Mode.CPU, toy)

    assert exit_code(findings) == 0
    assert named(findings, "model").line() == (
        "warn model    ollama has no qwen3.5:27b yet: the optimiser works alone"
        " -> docker compose -f compose.yaml -f services/compose.cpu.yaml logs model, or set another MODEL"
    )


@pytest.mark.docker
def test_text_that_the_next_start_prepares_is_a_warning_and_a_damaged_one_a_failure(toy: Environment) -> None:
    missing = named(examine(Mode.CPU, toy), "data")
    (toy.root / "text" / "manifest.json").write_text("{}")
    damaged = only_failure(examine(Mode.CPU, toy))

    assert (missing.severity, missing.found) == (Severity.WARN, "the volume holds no prepared text")
    assert missing.fix.endswith("up data")
    assert "data     the manifest is damaged" in damaged
    assert f"docker volume rm {project_of(toy.root)}_data" in damaged


# --- the GPU ------------------------------------------------------------------------------------------------------


def test_driver_older_than_our_torch_needs_is_refused(well: Environment, tmp_path: Path) -> None:
    old = H100._replace(driver="570.124.06")
    facts = replace(well, installed_gpus=lambda: [old], environment={"PATH": str(tmp_path)}, connect=forbids)

    driver = named(examine(Mode.GPU, facts), "driver")

    assert driver.line().startswith("FAIL driver   570.124.06 (wanted >= 580) -> install NVIDIA's driver 580 or newer")
    assert "; or TORCH_BUILD=cu126 and TORCH_INDEX in gpu.env; or without a GPU" in driver.fix


@pytest.mark.parametrize(
    ("build", "capability", "severity"),
    [("cu126", (9, 0), Severity.OK), ("cu128", (9, 0), Severity.OK), ("cu126", (12, 0), Severity.FAIL)],
)
def test_older_build_in_the_image_takes_the_older_driver_of_a_gpu_that_it_knows(
    build: str, capability: tuple[int, int], severity: Severity, well: Environment
) -> None:
    old = H100._replace(driver="550.54.14", capability=capability)
    facts = replace(well, installed_gpus=lambda: [old], environment=SHELL | {"TORCH_BUILD": build}, connect=forbids)

    findings = examine(Mode.GPU, facts)

    assert named(findings, "driver").severity is Severity.OK
    assert named(findings, "GPU").severity is severity


def broken_driver() -> list[InstalledGpu]:
    raise GpuFault("NVIDIA's driver fails: RM has detected an NVML/RM version mismatch.", "repair the driver, or ...")


def test_broken_driver_is_no_missing_gpu(well: Environment) -> None:
    facts = replace(well, installed_gpus=broken_driver, connect=forbids)

    driver = named(examine(Mode.GPU, facts), "driver")

    assert driver.found == "NVIDIA's driver fails: RM has detected an NVML/RM version mismatch."
    assert "or without a GPU: scripts/up --cpu" in driver.fix


def test_gpu_that_gpu_env_names_and_the_machine_lacks_is_told_with_those_it_has() -> None:
    finding, installed = chosen([H100], A6000.uuid)

    assert installed is None
    assert finding.severity is Severity.FAIL
    assert finding.fix == f"set GPU_UUID in gpu.env to one of {H100.uuid}"


def test_gpu_is_the_named_one_else_the_first() -> None:
    assert chosen([H100, A6000], A6000.uuid)[1] == A6000
    assert chosen([H100, A6000], "")[1] == H100


@pytest.mark.parametrize(
    "profile", [profile for profile in PROFILES.values() if profile.device == "cuda"], ids=lambda profile: profile.name
)
def test_every_profile_fits_the_smallest_gpu_it_is_for(profile: Profile) -> None:
    installed = H100._replace(gpu=Gpu("a GPU", round(profile.gpu_gib * 1024)))

    assert split(installed, {"PROFILE": profile.name, "LLM": "ollama"}).severity is Severity.OK


def test_split_counts_no_llm_where_there_is_none() -> None:
    cap = {"PROFILE": "48gb", "TRAINER_CAP_MIB": "44000"}

    assert split(A6000, cap | {"LLM": "ollama"}).severity is Severity.FAIL
    assert split(A6000, cap | {"LLM": "none"}).severity is Severity.OK


def test_gpu_that_no_profile_fits_is_sent_to_the_processor() -> None:
    finding = split(H100._replace(gpu=Gpu("GeForce GTX 1650", 4096)), {"PROFILE": "auto", "LLM": "ollama"})

    assert finding.line() == "FAIL split    no profile fits a GPU of 4096 MiB -> scripts/up --cpu"


CDI = [{"Source": "cdi", "ID": "nvidia.com/gpu=0"}]


@pytest.mark.parametrize(
    "facts",
    [
        {"Runtimes": {"runc": {}, "nvidia": {}}},
        {"Runtimes": {"runc": {}}, "DiscoveredDevices": CDI},
    ],
)
def test_engine_that_can_give_a_gpu_is_known_by_runtime_or_cdi(well: Environment, facts: dict[str, object]) -> None:
    with closing(docker.DockerClient(version="1.41")) as unconnected:
        assert engine_checks.toolkit(well, engine_checks.Engine(unconnected, facts)).severity is Severity.OK


@pytest.mark.parametrize(
    ("facts", "hook", "files"),
    [
        ({"Runtimes": {"runc": {}}, "DiscoveredDevices": CDI}, None, ["compose.yaml", "services/compose.cdi.yaml"]),
        ({"Runtimes": {"runc": {}}, "DiscoveredDevices": CDI}, "/usr/bin/hook", []),
        ({"Runtimes": {"runc": {}, "nvidia": {}}, "DiscoveredDevices": CDI}, None, []),
        ({"Runtimes": {"runc": {}}, "DiscoveredDevices": None}, None, []),
    ],
    ids=["only CDI", "hook", "runtime", "none"],
)
def test_compose_gets_the_file_for_cdi_where_the_engine_has_nothing_else(
    facts: dict[str, object], hook: str | None, files: list[str]
) -> None:
    by_cdi = engine_checks.has_only_cdi(facts, hook)

    assert list(compose_files(Mode.GPU, by_cdi=by_cdi))[1::2] == files
    assert list(compose_files(Mode.CPU, by_cdi=by_cdi))[1::2] == ["compose.yaml", "services/compose.cpu.yaml"]


# --- the user's own subject ----------------------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Of the user who runs the tests."""
    folder = tmp_path / "subject"
    subprocess.run(["git", "init", "--quiet", folder], check=True)
    (folder / "train.py").write_text("LR = 1\n")
    return folder


def test_subject_of_another_user_is_told_with_what_gives_it_to_the_researcher(
    well: Environment, repository: Path
) -> None:
    mine = os.getuid()
    held = {"SUBJECT_DIR": str(repository), "RESEARCHER_USER": "4242:4243"}

    finding = in_containers(well, held)

    assert finding.severity is Severity.FAIL
    assert finding.found == f"{repository} is owned by {mine}, and the researcher is 4242"
    if mine == 0:
        assert finding.fix == f"sudo chown -R 4242:4243 {repository} && sudo chmod u+rwx {repository}"
    else:
        assert finding.fix == f"set RESEARCHER_USER={mine}:{os.getgid()} in gpu.env"


@pytest.mark.skipif(os.getuid() != 0, reason="gives folders to other users")
@pytest.mark.parametrize(
    ("owned", "mode", "severity", "fix"),
    [
        ([".", ".git", "train.py"], 0o755, Severity.OK, ""),
        ([".", ".git", "train.py"], 0o000, Severity.FAIL, "sudo chown -R 1000:1001 {} && sudo chmod u+rwx {}"),
        (["."], 0o755, Severity.FAIL, "sudo chown -R 1000:1001 {} && sudo chmod u+rwx {}"),
    ],
    ids=["its own", "closed", "in parts"],
)
def test_subject_must_be_the_researchers_as_a_whole(
    well: Environment, repository: Path, owned: list[str], mode: int, severity: Severity, fix: str
) -> None:
    for part in owned:
        os.chown(repository / part, 1000, 1001)
    repository.chmod(mode)

    finding = in_containers(well, {"SUBJECT_DIR": str(repository), "RESEARCHER_USER": "1000:1001"})

    assert finding.severity is severity
    assert finding.fix == fix.replace("{}", str(repository))


@pytest.mark.skipif(os.getuid() != 0, reason="gives folders to other users")
def test_subject_of_another_user_who_is_not_root_is_answered_with_that_user(
    well: Environment, repository: Path
) -> None:
    for path in (repository, repository / ".git", repository / "train.py"):
        os.chown(path, 1007, 1008)

    finding = in_containers(well, {"SUBJECT_DIR": str(repository), "RESEARCHER_USER": "1000:1000"})

    assert finding.fix == "set RESEARCHER_USER=1007:1008 in gpu.env"


@pytest.mark.parametrize(("removed", "said"), [(".git", "is no git repository"), ("train.py", "holds no train.py")])
def test_folder_that_is_no_subject_is_told(well: Environment, repository: Path, removed: str, said: str) -> None:
    path = repository / removed
    shutil.rmtree(path) if path.is_dir() else path.unlink()

    finding = in_containers(well, {"SUBJECT_DIR": str(repository), "RESEARCHER_USER": "1000:1000"})

    assert finding.severity is Severity.FAIL
    assert said in finding.found


def test_a_task_edits_a_file_of_any_name(well: Environment, repository: Path) -> None:
    held = {"SUBJECT_DIR": str(repository), "RESEARCHER_USER": f"{os.getuid()}:{os.getgid()}"}
    (repository / "train.py").rename(repository / "plan.py")
    assert in_containers(well, held).severity is Severity.FAIL

    (repository / "overnight.toml").write_text('edit = "plan.py"\n')

    assert in_containers(well, held).severity is Severity.OK


def test_empty_folder_is_no_subject_since_docker_makes_one_of_a_mistyped_name(
    well: Environment, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()

    finding = in_containers(well, {"SUBJECT_DIR": str(empty), "RESEARCHER_USER": "1000:1000"})

    assert finding.severity is Severity.FAIL
    assert "is no git repository" in finding.found


V100 = InstalledGpu("GPU-3", "580.95.05", Gpu("Tesla V100-PCIE-32GB", 32768), (7, 0))
GB10 = InstalledGpu("GPU-4", "580.126.09", Gpu("NVIDIA GB10", None), (12, 1))


def test_gpu_that_our_torch_has_no_code_for_is_refused() -> None:
    finding, installed = chosen([V100], "")

    assert installed is None
    assert finding.severity is Severity.FAIL
    assert "compute capability is 7.0, the limit 7.5" in finding.found


def test_gpu_that_shares_the_machines_memory_wants_a_profile_and_has_no_split(tmp_path: Path) -> None:
    finding, installed = chosen([GB10], "")
    assert installed == GB10
    assert "shares the memory of the machine" in finding.found

    auto, named_profile = (split(GB10, {"PROFILE": name, "LLM": "ollama"}) for name in ("auto", "48gb"))

    assert (auto.severity, named_profile.severity) == (Severity.FAIL, Severity.SKIP)
    assert re.fullmatch(r"PROFILE=\w+ in gpu.env", auto.fix)


@pytest.mark.parametrize(
    ("there", "environment", "name", "severity", "found", "fix"),
    [
        ([H100], {}, "GPU", Severity.OK, "the profile is 80gb", ""),
        ([H100, A6000], {"CUDA_VISIBLE_DEVICES": "1"}, "GPU", Severity.OK, "RTX A6000: the profile is 48gb", ""),
        ([H100], {"CUDA_VISIBLE_DEVICES": "-1"}, "driver", Severity.OK, "hides every GPU: the profile is cpu", ""),
        ([GB10], {}, "GPU", Severity.WARN, "shares the memory of the machine", "overnight run --profile"),
        ([V100], {}, "GPU", Severity.FAIL, "compute capability is 7.0", "--profile cpu"),
    ],
)
def test_local_mode_tells_what_follows_from_the_gpus_that_it_sees(
    well: Environment,
    there: list[InstalledGpu],
    environment: dict[str, str],
    name: str,
    severity: Severity,
    found: str,
    fix: str,
) -> None:
    facts = replace(well, installed_gpus=lambda: there, environment=SHELL | environment, connect=forbids)

    findings = examine(Mode.LOCAL, facts)
    finding = named(findings, name)

    assert (finding.severity, found in finding.found, fix in finding.fix) == (severity, True, True), finding.line()
    assert "ubuntu-drivers" not in finding.fix


# --- local mode ----------------------------------------------------------------------------------------------------


def test_local_mode_needs_no_docker_and_no_gpu(well: Environment) -> None:
    facts = replace(well, installed_gpus=list, connect=forbids)

    findings = examine(Mode.LOCAL, facts)

    assert exit_code(findings) == 0
    assert named(findings, "driver").found == "no NVIDIA GPU: the profile is cpu"
    assert not facts.state.root.exists()


def test_local_mode_without_git_is_told_what_to_install(well: Environment, tmp_path: Path) -> None:
    facts = replace(well, installed_gpus=list, environment={"PATH": str(tmp_path)})

    assert only_failure(examine(Mode.LOCAL, facts)) == "FAIL git      not installed -> sudo apt-get install git"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: others' candidates run as themselves")
def test_root_is_told_which_folder_keeps_candidates_from_being_another_user(well: Environment, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)

    finding = named(examine(Mode.LOCAL, replace(well, installed_gpus=list)), "user")

    assert finding.severity is Severity.WARN
    assert "may not enter " in finding.found
    assert "--state /var/lib/overnight" in finding.fix


def test_run_whose_choices_are_damaged_is_told_with_the_folder_to_move_away(well: Environment) -> None:
    well.state.make()
    (well.state.journal / CHOICES_FILE).write_text("{")

    finding = named(examine(Mode.LOCAL, replace(well, installed_gpus=list)), "subject")

    assert finding.severity is Severity.FAIL
    assert finding.found.startswith(f"{well.state.journal / CHOICES_FILE} cannot be read (")
    assert finding.found.endswith(")"), "the next step is no part of what was found"
    assert finding.fix == f"move {well.state.root} away"


def test_full_disk_in_local_mode_is_told_with_another_place(well: Environment) -> None:
    facts = replace(well, installed_gpus=list, free_bytes=lambda _: GIB // 2)

    assert "0.5 GiB free in " in only_failure(examine(Mode.LOCAL, facts))


def test_damaged_text_in_local_mode_is_told(well: Environment) -> None:
    well.state.data.mkdir(parents=True)
    (well.state.data / "manifest.json").write_text("{")

    line = only_failure(examine(Mode.LOCAL, replace(well, installed_gpus=list)))

    assert f"data     the manifest is damaged (1 faults) -> rm -r {well.state.data}" in line


def test_a_task_in_place_of_a_text_is_told(well: Environment) -> None:
    task = Task("fit.py", ("python", "fit.py"), 9.0, "SEED", 0.1, Metric("accuracy", Direction.HIGHER), {})
    write_task_data(well.state.data, TaskData(task, "/srv/routes"))

    finding = named(examine(Mode.LOCAL, replace(well, installed_gpus=list)), "data")

    assert (finding.severity, finding.found) == (Severity.OK, "a task: accuracy, claimed")


@pytest.mark.parametrize(("model", "severity"), [("small", Severity.OK), ("large:9b", Severity.WARN)])
def test_model_of_this_machine_is_looked_for_and_its_absence_stops_nothing(
    well: Environment, model: str, severity: Severity
) -> None:
    with ollama_double([], model="small:latest") as server:
        environment = SHELL | {"OLLAMA_HOST": server.url, "MODEL": model}
        findings = examine(Mode.LOCAL, replace(well, installed_gpus=list, environment=environment))

    assert named(findings, "model").severity is severity
    assert exit_code(findings) == 0
    if severity is Severity.WARN:
        assert named(findings, "model").fix == "overnight pull large:9b"


@pytest.mark.parametrize(
    ("models", "severity", "says"),
    [
        (Reply(body='{"data": []}'), Severity.OK, "m is asked for at http://127.0.0.1"),
        (refused(401, "no such key"), Severity.WARN, "refuses the key (401; no key was given): no such key"),
    ],
)
def test_endpoint_elsewhere_is_looked_at_and_asked_nothing(
    well: Environment, models: Reply, severity: Severity, says: str
) -> None:
    with openai_double(spoken("")) as server:
        server.models = models
        shell = SHELL | {"LLM": "openai", "MODEL": "m", "OPENAI_BASE_URL": server.url}
        findings = examine(Mode.LOCAL, replace(well, installed_gpus=list, environment=shell))
        (model,) = [finding for finding in findings if finding.name == "model"]

    assert model.severity is severity
    assert says in model.found
    assert server.questions == []


@pytest.mark.parametrize(
    "wrong", [{"LLM": "gpt"}, {"OLLAMA_HOST": "a b:1"}, {"LLM": "openai", "OPENAI_BASE_URL": "nowhere"}]
)
def test_llm_that_cannot_be_asked_as_set_is_a_failure_with_the_next_step(
    well: Environment, wrong: dict[str, str]
) -> None:
    finding = named(examine(Mode.LOCAL, replace(well, installed_gpus=list, environment=SHELL | wrong)), "model")

    assert finding.severity is Severity.FAIL
    assert finding.fix


def test_run_without_an_llm_asks_for_no_model(well: Environment) -> None:
    findings = examine(Mode.LOCAL, replace(well, installed_gpus=list, environment=SHELL | {"LLM": "none"}))

    assert named(findings, "model").severity is Severity.SKIP


def without_torch(name: str) -> str:
    raise PackageNotFoundError(name)


def test_environment_without_torch_or_with_one_that_cannot_use_the_gpu_is_refused(well: Environment) -> None:
    assert packages(well, [], without_torch).severity is Severity.FAIL
    assert packages(well, [], lambda _: "2.13.0+cpu").severity is Severity.OK
    assert packages(well, [H100], lambda _: "2.13.0+cpu").severity is Severity.FAIL
    assert packages(well, [H100], lambda _: "2.13.0").severity is Severity.OK


def without_pyarrow(name: str) -> str:
    return without_torch(name) if name == "pyarrow" else "2.13.0"


def test_only_a_gpu_needs_the_package_that_reads_shards(well: Environment) -> None:
    missing = packages(well, [H100], without_pyarrow)

    assert (missing.severity, missing.fix) == (Severity.WARN, installing("pyarrow", well.root))
    assert packages(well, [], without_pyarrow).severity is Severity.OK


@pytest.mark.parametrize(
    ("lies_there", "command"),
    [
        (["pyproject.toml", "scripts/setup"], "scripts/setup run"),
        (["pyproject.toml"], "build the images again: scripts/up, on the host"),
        ([], f"{sys.executable} -m pip install torch=="),
    ],
    ids=["clone", "image", "wheel"],
)
def test_missing_torch_is_installed_by_what_this_installation_has(
    well: Environment, tmp_path: Path, lies_there: list[str], command: str
) -> None:
    root = tmp_path / "installed"
    (root / "scripts").mkdir(parents=True)
    for name in lies_there:
        (root / name).touch()

    assert packages(replace(well, root=root), [], without_torch).fix.startswith(command)


def test_clock_behind_the_newest_file_is_a_warning(well: Environment) -> None:
    assert clock(well).severity is Severity.OK
    behind = clock(replace(well, now=datetime.now(UTC) - timedelta(days=400)))
    assert (behind.severity, behind.fix) == (Severity.WARN, "sudo timedatectl set-ntp true")


def test_free_space_is_that_of_the_nearest_folder_that_exists(tmp_path: Path) -> None:
    assert abs(free_bytes(tmp_path / "not" / "yet") - shutil.disk_usage(tmp_path).free) < GIB


def test_port_that_the_stack_itself_listens_on_is_not_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as ours:
        port = ("127.0.0.1", ours.getsockname()[1])

        assert ports([port], {port})[0].severity is Severity.OK
        assert ports([port], set())[0].severity is Severity.FAIL


# --- what is told --------------------------------------------------------------------------------------------------


@given(st.builds(Finding, st.text(), st.sampled_from(Severity), st.text(), st.text(), st.text()))
def test_finding_is_one_line_whatever_it_quotes(finding: Finding) -> None:
    assert len(finding.line().splitlines()) == 1


def test_report_holds_findings_versions_and_settings_and_no_secret(well: Environment, tmp_path: Path) -> None:
    home = tmp_path / "home" / "ada"
    with (well.root / "gpu.env").open("a") as file:
        file.write("OPENAI_API_KEY=sk-verysecretindeed1234567890\nREDIS_URL=redis://me:hunter2@cache:6379\n")
    edit(well.root / "gpu.env", "SUBJECT_DIR=", f"SUBJECT_DIR={home}/subject")
    facts = replace(well, environment=SHELL | {"HOME": str(home)}, installed_gpus=list, connect=forbids)
    report = tmp_path / "report.txt"

    findings = examine(Mode.CPU, facts)
    write_report(report, Mode.CPU, findings, facts)

    text = report.read_text()
    assert "FAIL gpu.env  line " in text
    assert "docker 7" in text
    assert "SUBJECT_DIR=~/subject" in text
    assert "OPENAI_API_KEY=[left out]" in text
    assert "redis://[left out]@cache:6379" in text
    assert not [secret for secret in ("verysecret", "hunter2", "ada") if secret in text]


@given(st.text(st.characters(categories=["L", "N"]), min_size=16, max_size=40))
def test_what_looks_like_a_secret_is_left_out_wherever_it_stands(secret: str) -> None:
    for text in (f"X_TOKEN={secret}", f"password: {secret}", f"api_key = {secret} end", f"http://u:{secret}@h/"):
        assert secret not in without_secrets(text, "")


def test_the_command_examines_local_mode_and_writes_the_report(tmp_path: Path) -> None:
    report = tmp_path / "report.txt"
    command = [sys.executable, "-m", "services.cli", "doctor", "--state", tmp_path / "state", "--report", report]

    answer = subprocess.run(command, cwd=ROOT, env=SHELL, capture_output=True, text=True, check=False)

    assert answer.returncode == 0, answer.stdout
    assert answer.stdout.splitlines()[0].startswith("ok   git ")
    assert str(report) in answer.stdout
    assert report.read_text().startswith("overnight doctor, mode local, ")


@pytest.mark.parametrize("program", [("services.cli", "doctor"), ("services", "doctor", "--local")])
def test_report_that_cannot_be_written_is_refused_in_a_sentence(tmp_path: Path, program: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", *program, "--report", tmp_path / "no such folder" / "report.txt"]

    answer = subprocess.run(command, cwd=ROOT, env=SHELL, capture_output=True, text=True, check=False)

    assert answer.returncode == 2
    assert "--report" in answer.stderr
    assert "Traceback" not in answer.stderr
