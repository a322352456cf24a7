"""The compose files as they ship, merged by Compose itself: what no container may have, and what each must have.

Needs the compose CLI and no engine. The GPU stack cannot start where there is no GPU; this is all that is proven of it.
"""

from __future__ import annotations

import json
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.compose.checkout import ROOT
from tests.compose.stack import CPU, run

pytestmark = pytest.mark.docker

Service = dict[str, Any]
GPU = ("-f", "compose.yaml")
ONE_SHOTS = {"secrets", "data"}
SERVERS = {"redis", "model", "ollama", "trainer", "dry-run-worker", "researcher", "dashboard"}
CAPABILITIES = {
    "secrets": {"CHOWN", "DAC_OVERRIDE", "FOWNER"},
    "trainer": {"SETUID", "SETGID", "KILL"},
    "dry-run-worker": {"SETUID", "SETGID", "KILL"},
}
ROOT_INSIDE = {"secrets", "data", "trainer", "dry-run-worker"}


@cache
def merged(files: tuple[str, ...], *shell: str) -> dict[str, Any]:
    environment = dict(word.split("=", 1) for word in shell) | {"PATH": "/usr/local/bin:/usr/bin:/bin"}
    done = run("docker", "compose", *files, "config", "--format", "json", cwd=ROOT, env=environment)
    config: dict[str, Any] = json.loads(done.stdout)
    return config


def services(files: tuple[str, ...], *shell: str) -> dict[str, Service]:
    found: dict[str, Service] = merged(files, *shell)["services"]
    return found


every = pytest.mark.parametrize(
    ("files", "name"),
    [(files, name) for files in (GPU, CPU) for name in sorted(ONE_SHOTS | SERVERS)],
    ids=lambda value: value if isinstance(value, str) else "cpu" if value == CPU else "gpu",
)
both = pytest.mark.parametrize("files", [GPU, CPU], ids=["gpu", "cpu"])


@both
def test_stack_is_these_services_and_no_other(files: tuple[str, ...]) -> None:
    assert set(services(files)) == ONE_SHOTS | SERVERS
    assert set(services(files, "LLM=none")) == (ONE_SHOTS | SERVERS) - {"ollama", "model", "dry-run-worker"}


@every
def test_service_has_no_right_that_it_does_not_need(files: tuple[str, ...], name: str) -> None:
    service = services(files)[name]

    assert service["cap_drop"] == ["ALL"]
    assert set(service.get("cap_add", [])) == CAPABILITIES.get(name, set())
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is True
    assert (service["user"].split(":")[0] == "0") == (name in ROOT_INSIDE)
    for word in ("privileged", "pid", "ipc", "userns_mode", "devices", "cgroup_parent"):
        assert not service.get(word), word
    ports = [(port["host_ip"], port["published"]) for port in service.get("ports", [])]
    assert ports == ([("127.0.0.1", "8642")] if name == "dashboard" else [])
    assert "docker.sock" not in json.dumps(service)


def memory_gib(files: tuple[str, ...], *shell: str) -> float:
    """The limits of all services that run at the same time."""
    found = services(files, *shell)
    return sum(int(found[name]["mem_limit"]) for name in found if name not in ONE_SHOTS) / 2**30


def test_limits_on_memory_sum_to_what_the_page_asks_for() -> None:
    row = re.search(
        r"^\| memory \| (\d+) GiB \| (\d+) GiB, (\d+) with", (ROOT / "services/README.md").read_text(), re.M
    )
    assert row is not None
    of_gpu, of_cpu, without_llm = map(int, row.groups())

    assert of_gpu - 2 < memory_gib(GPU) <= of_gpu
    assert memory_gib(CPU) == of_cpu
    assert memory_gib(CPU, "LLM=none") == without_llm
    assert all(int(services(files)[name]["mem_limit"]) <= of_gpu * 2**30 for files in (GPU, CPU) for name in ONE_SHOTS)


@both
def test_only_what_downloads_gets_the_proxy_of_the_shell(files: tuple[str, ...]) -> None:
    found = services(files, "HTTPS_PROXY=http://proxy.example:3128", "no_proxy=localhost")

    assert {name for name in found if "HTTPS_PROXY" in found[name].get("environment", {})} == {"data", "model"}
    assert found["model"]["environment"]["no_proxy"] == "localhost"
    assert found["model"]["environment"]["OLLAMA_MODELS"] == "/models"
    without = services(files)["data"]["environment"]
    assert all(without.get(name) is None for name in ("HTTPS_PROXY", "http_proxy"))


def test_the_gpu_comes_as_a_cdi_device_where_that_file_is_added() -> None:
    asked = {
        name: service["deploy"]["resources"]["reservations"]["devices"]
        for name, service in services((*GPU, "-f", "services/compose.cdi.yaml"), "GPU_UUID=GPU-1").items()
        if "deploy" in service
    }

    device = {"driver": "cdi", "device_ids": ["nvidia.com/gpu=GPU-1"], "capabilities": ["gpu"]}
    assert asked == {"ollama": [device], "trainer": [device]}


@every
def test_service_is_bounded(files: tuple[str, ...], name: str) -> None:
    service = services(files)[name]

    assert int(service["mem_limit"]) > 0
    assert service["pids_limit"] > 0
    assert service["init"] is True
    assert service["logging"]["driver"] == "json-file"
    assert set(service["logging"]["options"]) == {"max-size", "max-file"}
    for folder in service.get("tmpfs", []):
        assert "size=" in folder, folder


@every
def test_servers_come_back_and_one_shots_do_not(files: tuple[str, ...], name: str) -> None:
    service = services(files)[name]

    if name in ONE_SHOTS:
        assert service["restart"] == "no"
        return
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"]
    assert service["stop_grace_period"] in ("20s", "30s")


@both
def test_nobody_starts_before_what_it_needs(files: tuple[str, ...]) -> None:
    waits = {
        name: {
            other: wait["condition"].removeprefix("service_") for other, wait in service.get("depends_on", {}).items()
        }
        for name, service in services(files).items()
    }

    done, healthy, started = "completed_successfully", "healthy", "started"
    assert waits == {
        "secrets": {},
        "data": {"secrets": done},
        "model": {"secrets": done},
        "redis": {"secrets": done},
        "ollama": {"secrets": done},
        "trainer": {"redis": healthy, "data": done},
        "dry-run-worker": {"redis": healthy, "data": done},
        "researcher": {"redis": healthy, "trainer": started},
        "dashboard": {"redis": healthy},
    }


@both
def test_images_are_pinned_in_one_place(files: tuple[str, ...]) -> None:
    config = merged(files)
    pinned = config["x-images"]
    image = {name: service["image"] for name, service in config["services"].items()}

    assert all(re.search(r":[^:/]*\d+\.\d+\.\d+", name) and "latest" not in name for name in pinned.values())
    assert image["redis"] == pinned["redis"]
    assert image["ollama"] == image["model"] == pinned["ollama"]
    assert image["trainer"] == image["data"] == image["dry-run-worker"]
    assert image["researcher"] == image["secrets"] == image["dashboard"]
    builds = {name: service["build"]["args"] for name, service in config["services"].items() if "build" in service}
    python = {"PYTHON_IMAGE": pinned["python"]}
    of_user = dict.fromkeys(("SUBJECT_PACKAGES", "TORCH_BUILD", "TORCH_INDEX"), "")
    assert builds == {"trainer": python | of_user, "researcher": python}, "one service builds each image"


@both
@pytest.mark.parametrize("llm", ["ollama", "none", "openai"])
@pytest.mark.parametrize(("url", "stronger"), [("", "stronger"), ("https://llm.example/v1", "stronger-api")])
def test_networks_give_a_way_out_to_whom_it_is_meant_for(
    files: tuple[str, ...], llm: str, url: str, stronger: str
) -> None:
    config = merged(files, f"LLM={llm}", f"ESCALATE_BASE_URL={url}")
    joined = {name: set(service.get("networks", {})) for name, service in config["services"].items()}
    outward = {name for name, network in config["networks"].items() if not network.get("internal")}

    assert joined["redis"] == joined["trainer"] == {"bus"}
    assert joined.get("dry-run-worker") == ({"bus"} if llm != "none" else None)
    assert joined["researcher"] == {"bus", f"llm-{llm}", stronger}
    assert joined.get("ollama") == ({"llm-ollama"} if llm == "ollama" else None)
    assert joined["dashboard"] == {"bus", "page"}
    assert config["networks"]["page"]["driver_opts"] == {"com.docker.network.bridge.enable_ip_masquerade": "false"}
    assert joined["data"] == {"fetch"}
    assert config["services"]["secrets"]["network_mode"] == "none"
    assert outward == {"fetch", "page"} | ({"llm-openai"} if llm == "openai" else set()) | (
        {stronger} if url else set()
    )


def test_the_key_of_a_paid_endpoint_is_a_file_of_the_researcher_alone(tmp_path: Path) -> None:
    key = tmp_path / "key"
    found = services(GPU, f"ESCALATE_API_KEY_FILE={key}")

    mounts = {name: [volume["target"] for volume in service["volumes"] if volume["source"] == str(key)]
              for name, service in found.items()}  # fmt: skip
    inside = found["researcher"]["environment"]["ESCALATE_API_KEY_FILE"]
    assert mounts == {name: [] for name in found} | {"researcher": [inside]}
    assert services(GPU)["researcher"]["environment"]["ESCALATE_API_KEY_FILE"] == ""


@pytest.mark.parametrize(("uuid", "gpu"), [("", "0"), ("GPU-11112222", "GPU-11112222")])
def test_ollama_and_trainer_reserve_the_same_gpu_and_nobody_else_one(uuid: str, gpu: str) -> None:
    found = services(GPU, f"GPU_UUID={uuid}")
    reserved = {
        name: service["deploy"]["resources"]["reservations"]["devices"]
        for name, service in found.items()
        if service.get("deploy")
    }

    device = {"driver": "nvidia", "device_ids": [gpu], "capabilities": ["gpu"]}
    assert reserved == {"ollama": [device], "trainer": [device]}


def test_cpu_stack_reserves_no_gpu_and_never_looks_for_one() -> None:
    found = services(CPU)

    assert not any(service.get("deploy") for service in found.values())
    assert {found[name]["environment"]["PROFILE"] for name in ("data", "trainer", "researcher")} == {"cpu"}


@both
def test_each_volume_is_mounted_by_whom_it_is_meant_for(files: tuple[str, ...]) -> None:
    config = merged(files)
    mounted = {
        (volume["source"], name): "ro" if volume.get("read_only") else "rw"
        for name, service in config["services"].items()
        for volume in service.get("volumes", [])
        if volume["type"] == "volume" and name != "secrets"
    }

    assert mounted == {
        ("secret-redis", "redis"): "ro",
        ("secret-trainer", "trainer"): "ro",
        ("secret-dry-run-worker", "dry-run-worker"): "ro",
        ("secret-researcher", "researcher"): "ro",
        ("secret-dashboard", "dashboard"): "ro",
        ("redis", "redis"): "rw",
        ("models", "model"): "rw",
        ("models", "ollama"): "rw",
        ("models", "researcher"): "ro",
        ("data", "data"): "rw",
        ("data", "trainer"): "ro",
        ("data", "dry-run-worker"): "ro",
        ("data", "researcher"): "ro",
        ("trials", "trainer"): "rw",
        ("trials", "researcher"): "ro",
        ("trials", "dashboard"): "ro",
        ("subject", "researcher"): "rw",
        ("no-repository", "researcher"): "rw",
        ("journal", "researcher"): "rw",
        ("journal", "dashboard"): "ro",
    }
    text = (ROOT / "compose.yaml").read_text()
    for name in config["volumes"]:
        if not name.startswith("secret-"):
            assert re.search(rf"^  {name}: \{{\}} # .+Lost: ", text, re.MULTILINE), (
                f"{name}: what it holds, what its loss means"
            )


def test_own_repository_is_mounted_beside_the_volume_of_the_run(tmp_path: Path) -> None:
    found = services(GPU, f"SUBJECT_DIR={tmp_path}", "RESEARCHER_USER=1234:5678")

    for name in ("secrets", "researcher"):
        mounts = {volume["target"]: (volume["type"], volume["source"]) for volume in found[name]["volumes"]}
        assert mounts["/state/user-repository"] == ("bind", str(tmp_path))
        assert mounts["/state/subject"] == ("volume", "subject")
    assert found["researcher"]["environment"]["USER_REPOSITORY"] == "/state/user-repository"
    assert found["researcher"]["user"] == "1234:5678"


def test_secrets_are_nowhere_in_the_environment() -> None:
    for name, service in services(GPU).items():
        secret = [key for key in service.get("environment", {}) if re.search("PASSWORD|TOKEN|SECRET", key)]
        files = ["PAGE_TOKEN_FILE", "REDIS_PASSWORD_FILE"] if name == "dashboard" else ["REDIS_PASSWORD_FILE"]
        assert sorted(secret) in ([], files), name


def test_env_is_a_link_to_gpu_env_so_that_compose_and_containers_read_the_same() -> None:
    assert (ROOT / ".env").readlink() == Path("gpu.env")
    listed = subprocess.run(["git", "ls-files", "-s", ".env"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert listed.stdout.startswith("120000"), "as a link, in git too"


def test_owners_own_settings_file_is_never_committed() -> None:
    ignored = subprocess.run(
        ["git", "check-ignore", "gpu.local.env", "compose.override.yaml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ignored.stdout.split() == ["gpu.local.env", "compose.override.yaml"]
