"""gpu.env: the committed file, its table, what is refused, and that compose reads the same out of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from researcher.config.setting import Reader, SettingFault
from researcher.config.settings import Settings
from researcher.llm.backends import BACKENDS
from services.machine.gpu_env import KEYS, LOCAL, Entries, faults, read, render_local, settings
from tests import ROOT

SHIPPED = (ROOT / "gpu.env").read_text()
COMPOSE = (ROOT / "compose.yaml").read_text()
OF_COMPOSE = {key for key, row in KEYS.items() if Reader.COMPOSE in row.readers}
GOOD = "RESEARCHER_USER=1000:1000\nLLM=ollama\nCOMPOSE_PROFILES=${LLM}\nPROFILE=auto\nPROPOSER=hybrid\nMODEL=m:9b\n"
OTHER = {key: row.written.example for key, row in KEYS.items() if row.written} | {
    "RESEARCHER_USER": "1001:1002",
    "LLM": "none",
    "COMPOSE_PROFILES": "none",
    "PROFILE": "24gb",
    "PROPOSER": "optimizer",
    "CRASH_RESET": "baseline",
    "THINK": "on",
    "MODEL": "other:1b",
    "OPENAI_API_KEY_FILE": "/proc/sys/kernel/ostype",  # a file of one word
    "ESCALATE_API_KEY_FILE": "/proc/sys/kernel/ostype",
}
NEEDED = {
    "REDIS_URL": "redis://one",
    "SUBJECT_DIR": "/subject",
    "JOURNAL_DIR": "/journal",
    "DATA_DIR": "/data",
    "PRICE_PER_HOUR": "1",
    "ESCALATE_MODEL": "m",
    "ESCALATE_PRICE_IN": "1",
    "ESCALATE_PRICE_OUT": "1",
    "ESCALATE_MAX_COST": "1",
}
COUNTS = st.integers(1, 999_999_999).map(str)
DETECTED = st.fixed_dictionaries(
    {
        "PROFILE": st.sampled_from(["auto", "24gb", "cpu"]),
        "MODEL": st.from_regex(r"[a-z0-9][a-z0-9./_-]*(:[a-z0-9._-]+)?", fullmatch=True),
        "NUM_CTX": st.integers(2048, 999_999).map(str),
        "TRAINER_CAP_MIB": COUNTS,
        "LLM_RESERVE_MIB": COUNTS,
    }
)


def gpu_env(text: str) -> Entries:
    return read(text, "gpu.env")


def test_shipped_file_holds_every_key_and_no_fault() -> None:
    shipped = gpu_env(SHIPPED)

    assert faults(shipped, (), {}) == []
    assert shipped.values() == {key: row.shipped for key, row in KEYS.items()}


def test_the_comment_of_every_key_in_the_shipped_file_is_the_help_of_the_table() -> None:
    blocks = re.findall(r"((?:^# (?!---).*\n)+)^(\w+)=", SHIPPED, flags=re.MULTILINE)

    assert {key: " ".join(re.sub("^# ", "", text, flags=re.MULTILINE).split()) for text, key in blocks} == {
        key: row.help for key, row in KEYS.items()
    }


def test_keys_of_compose_stand_before_those_of_the_containers() -> None:
    head, compose, containers = re.split("^# --- ", SHIPPED, flags=re.MULTILINE)

    assert not gpu_env(head).entries
    assert set(gpu_env(compose).values()) == OF_COMPOSE
    assert set(gpu_env(containers).values()) == set(KEYS) - OF_COMPOSE


def test_the_table_says_of_every_key_whether_compose_reads_it() -> None:
    named = set(re.findall(r"\$\{(\w+)", COMPOSE))

    assert named | {"COMPOSE_PROFILES"} == OF_COMPOSE


def test_compose_has_a_network_for_every_backend_of_containers_and_no_way_out_but_for_an_endpoint() -> None:
    networks = re.findall(r"^  llm-(\w+):( \{\})?", COMPOSE, flags=re.MULTILINE)

    assert {name: bool(leads_out) for name, leads_out in networks} == {
        backend.name: backend.is_endpoint for backend in BACKENDS.values() if backend.in_containers
    }


def test_compose_starts_a_dry_run_worker_where_an_llm_is_asked_and_a_server_where_its_model_is_pulled() -> None:
    profiles = dict(re.findall(r"^  ([\w-]+):.*\n(?:    .*\n)*?    profiles: \[(.*)\]", COMPOSE, flags=re.MULTILINE))
    backends = [backend for backend in BACKENDS.values() if backend.in_containers]
    asked = {backend.name for backend in backends if backend.asks_llm}
    pulled = {backend.name for backend in backends if backend.needs_model_pull}

    assert {service: set(names.split(", ")) for service, names in profiles.items()} == {
        "dry-run-worker": asked, "model": pulled, "ollama": pulled
    }  # fmt: skip


@pytest.mark.docker
@pytest.mark.parametrize("name", sorted(OF_COMPOSE))
def test_another_value_of_a_key_of_compose_makes_another_stack(name: str) -> None:
    assert merged({name: OTHER[name]}) != merged({})


@pytest.mark.parametrize("name", [name for name in KEYS if name.lower() in Settings.model_fields])
def test_another_value_of_a_setting_is_another_setting_of_the_researcher(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in set(KEYS) & set(os.environ):
        monkeypatch.delenv(variable)
    for variable, value in NEEDED.items():
        monkeypatch.setenv(variable, value)
    before = Settings()

    monkeypatch.setenv(name, OTHER[name])

    assert getattr(Settings(), name.lower()) != getattr(before, name.lower())


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("TRAINER_CAP=9000", "TRAINER_CAP"),
        ("model=x", "model"),
        ("FROBNICATE=1", "FROBNICATE"),
        ("TAG=mine", "TAG"),
        ("EXPERIMENTS=none", "EXPERIMENTS"),
        ("HOURS=0", "HOURS"),
        ("HOURS=1e3", "HOURS"),
        ("HOURS=$H", "HOURS"),
        ("UNTIL=07:00", "UNTIL"),
        ("UNTIL=1800000000", "UNTIL"),
        ("UNTIL=2027-02-30T07:00", "UNTIL"),
        ("NUM_CTX=512", "NUM_CTX"),
        ("EDIT_SHARE=1.5", "EDIT_SHARE"),
        ("SUBJECT_DIR=subject", "SUBJECT_DIR"),
        ("GPU_UUID=0", "GPU_UUID"),
        ("MODEL=other", "MODEL"),
        ("just words", ""),
        ("EXPERIMENTS", ""),
    ],
)
def test_bad_line_is_told_once_with_its_place_and_the_next_step(line: str, key: str) -> None:
    (fault,) = faults(gpu_env(GOOD + line + "\n"), (), {})

    assert fault.key == key
    assert fault.found.startswith("line 7 of gpu.env")
    assert fault.next_step


@pytest.mark.parametrize(
    ("line", "next_step"),
    [
        ("TRAINER_CAP=9000", "did you mean TRAINER_CAP_MIB?"),
        ("model=x", "did you mean MODEL?"),
        ("EXPERIMENTS=none", "write for example EXPERIMENTS=100"),
        ("MODEL=other", "delete one of them"),
    ],
)
def test_the_next_step_is_one_that_can_be_taken(line: str, next_step: str) -> None:
    assert [fault.next_step for fault in faults(gpu_env(GOOD + line + "\n"), (), {})] == [next_step]


@pytest.mark.parametrize(
    ("lines", "key"),
    [
        ({"ESCALATE_BASE_URL": "https://one", "ESCALATE_MODEL": "m", "ESCALATE_PRICE_IN": "3"}, "ESCALATE_BASE_URL"),
        ({"MAX_COST": "5"}, "MAX_COST"),
        ({"OPENAI_PRICE_IN": "5", "OPENAI_BASE_URL": "https://one", "LLM": "openai"}, "OPENAI_PRICE_IN"),
        ({"LLM": "openai"}, "OPENAI_BASE_URL"),
    ],
)
def test_settings_that_do_not_agree_are_told_as_the_researcher_tells_them(lines: dict[str, str], key: str) -> None:
    text = GOOD + "".join(f"{name}={value}\n" for name, value in lines.items() if name != "LLM")

    found = faults(gpu_env(text.replace("LLM=ollama", f"LLM={lines.get('LLM', 'ollama')}")), (), {})

    assert [fault.key for fault in found] == [key]


@pytest.mark.parametrize(
    ("name", "value"),
    [("RESEARCHER_USER", "0:0"), ("RESEARCHER_USER", "me:me"), ("LLM", ""), ("LLM", "olama"), ("PROFILE", "40gb")],
)
def test_bad_value_of_a_key_that_is_needed_is_told_once(name: str, value: str) -> None:
    text = re.sub(f"^{name}=.*$", f"{name}={value}", GOOD, flags=re.MULTILINE)

    assert [fault.key for fault in faults(gpu_env(text), (), {})] == [name]


def test_key_that_is_needed_and_gone_is_told_with_its_line() -> None:
    found = faults(gpu_env(GOOD.replace("COMPOSE_PROFILES=${LLM}\n", "")), (), {})

    missing = SettingFault(
        "COMPOSE_PROFILES", "gpu.env does not set COMPOSE_PROFILES", "add the line COMPOSE_PROFILES=${LLM}"
    )
    assert found == [missing]


def test_key_of_compose_in_the_owners_file_is_sent_to_gpu_env() -> None:
    (fault,) = faults(gpu_env(GOOD), (read("# mine\nLLM=none\n", LOCAL),), {})

    assert (fault.key, fault.next_step) == ("LLM", "set it in gpu.env")
    assert fault.found.startswith("line 2 of gpu.local.env")


@pytest.mark.parametrize("shell", [{"HOURS": "long"}, {"COMPOSE_PROFILES": ""}, {"COMPOSE_PROFILES": "x"}])
def test_shell_that_overrides_what_compose_reads_is_looked_at_too(shell: dict[str, str]) -> None:
    (fault,) = faults(gpu_env(GOOD), (), shell)

    assert [fault.key] == list(shell)
    assert fault.next_step.endswith("unset it")


def test_without_an_llm_the_llm_cannot_be_the_one_who_proposes() -> None:
    text = GOOD.replace("hybrid", "llm")

    assert faults(gpu_env(text), (), {}) == []
    assert [fault.key for fault in faults(gpu_env(text), (), {"LLM": "none"})] == ["PROPOSER"]


def test_later_files_win_and_the_shell_decides_what_compose_reads_and_nothing_else() -> None:
    held = settings(
        gpu_env(GOOD + "NUM_CTX=8192\nEXPERIMENTS=5\n"),
        (read("MODEL=small\nNUM_CTX=\n", "services/cpu.env"), read("MODEL=mine\n", LOCAL)),
        {"LLM": "none", "EXPERIMENTS": "", "PROFILE": "80gb", "HOME": "/h"},
    )

    assert held == {
        "RESEARCHER_USER": "1000:1000",
        "LLM": "none",
        "COMPOSE_PROFILES": "none",
        "PROFILE": "auto",
        "PROPOSER": "hybrid",
        "MODEL": "mine",
    }


def merged(shell: dict[str, str], folder: Path = ROOT) -> dict[str, Any]:
    """What compose makes of its files in a folder, called from such a shell."""
    answer = subprocess.run(
        ["docker", "compose", "config", "--format", "json"],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name not in KEYS} | shell,
        capture_output=True,
        text=True,
        check=True,
    )
    parsed: dict[str, Any] = json.loads(answer.stdout)
    return parsed


@given(DETECTED, st.text(), st.text())
def test_what_was_detected_is_read_back_as_it_was(values: dict[str, str], gpu: str, split: str) -> None:
    local = read(render_local(values, gpu, split), LOCAL)

    assert local.values() == values
    assert local.broken == ()
    assert faults(gpu_env(GOOD), (local,), {}) == []


@pytest.mark.docker
@pytest.mark.parametrize(
    "shell",
    [{}, {"LLM": "none", "HOURS": "2", "UNTIL": "2027-01-31T07:00:00+01:00"}],
    ids=["bare", "shell overrides"],
)
def test_compose_reads_the_same_out_of_the_same_files(tmp_path: Path, shell: dict[str, str]) -> None:
    own = 'MODEL="quoted:1" # and a comment\nNUM_CTX=4096   # four\nTRAINER_CAP_MIB=\n export BUDGET=30\n'
    (tmp_path / "gpu.env").write_text(SHIPPED.replace("TRAINER_CAP_MIB=", "TRAINER_CAP_MIB=9000"))
    (tmp_path / "gpu.local.env").write_text(own)
    (tmp_path / ".env").symlink_to("gpu.env")
    given_by_compose = "\n".join(f"      {name}: ${{{name}:-}}" for name in sorted(OF_COMPOSE))
    (tmp_path / "compose.yaml").write_text(
        "services:\n  one:\n    image: none\n    env_file: [gpu.env, gpu.local.env]\n    environment:\n"
        + given_by_compose
        + "\n  two:\n    image: none\n    profiles: [ollama]\n"
    )

    services = merged(shell, tmp_path)["services"]
    held = settings(gpu_env((tmp_path / "gpu.env").read_text()), (read(own, LOCAL),), shell)

    assert {name: value for name, value in services["one"]["environment"].items() if value} == held
    assert ("two" in services) == (held["LLM"] == "ollama")
