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

from researcher.settings import Settings
from services.machine.gpu_env import KEYS, LOCAL, Entries, Key, Reader, faults, read, render_local, settings
from tests import ROOT

SHIPPED = (ROOT / "gpu.env").read_text()
GOOD = "RESEARCHER_USER=1000:1000\nLLM=ollama\nCOMPOSE_PROFILES=${LLM}\nPROFILE=auto\nPROPOSER=hybrid\nMODEL=m:9b\n"
OTHER = {key.name: key.example for key in KEYS.values()} | {
    "RESEARCHER_USER": "1001:1002",
    "LLM": "none",
    "COMPOSE_PROFILES": "none",
    "PROFILE": "24gb",
    "PROPOSER": "optimizer",
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
    assert [entry.name for entry in shipped.entries] == list(KEYS)


def test_every_key_of_the_shipped_file_has_a_comment_of_its_own_above_it() -> None:
    lines = SHIPPED.splitlines()

    undocumented = [entry.name for entry in gpu_env(SHIPPED).entries if not re.match("# [^-]", lines[entry.line - 2])]

    assert undocumented == []


def test_keys_of_compose_stand_before_those_of_the_containers() -> None:
    head, compose, containers = re.split("^# --- ", SHIPPED, flags=re.MULTILINE)

    assert not gpu_env(head).entries
    assert {KEYS[entry.name].reader for entry in gpu_env(compose).entries} == {Reader.COMPOSE}
    assert {KEYS[entry.name].reader for entry in gpu_env(containers).entries} == {Reader.CONTAINERS}


@pytest.mark.docker
@pytest.mark.parametrize("name", [key.name for key in KEYS.values() if key.reader is Reader.COMPOSE])
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


def test_every_key_of_the_containers_is_a_setting_of_the_researcher() -> None:
    containers = {key.name.lower() for key in KEYS.values() if key.reader is Reader.CONTAINERS}

    assert containers - set(Settings.model_fields) == set()


@pytest.mark.parametrize("key", list(KEYS.values()), ids=lambda key: key.name)
def test_example_of_every_key_is_accepted_and_nonsense_is_not(key: Key) -> None:
    assert key.accepts(key.example)
    assert not key.accepts("$nonsense !")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("TRAINER_CAP=9000", "line 7 of gpu.env: TRAINER_CAP is not a setting; did you mean TRAINER_CAP_MIB[?]"),
        ("model=x", "line 7 of gpu.env: model is not a setting; did you mean MODEL[?]"),
        ("FROBNICATE=1", "line 7 of gpu.env: FROBNICATE is not a setting; delete it; known are GPU_UUID, .*"),
        ("EXPERIMENTS=none", "line 7 of gpu.env: EXPERIMENTS=none is not a whole number .*; .* EXPERIMENTS=100"),
        ("HOURS=0", "line 7 of gpu.env: HOURS=0 is not a number above 0; write for example HOURS=8"),
        ("HOURS=$H", r"line 7 of gpu.env: HOURS=\$H is not a number above 0; .*"),
        ("NUM_CTX=512", "line 7 of gpu.env: NUM_CTX=512 is not .* at least 2048; .*"),
        ("SUBJECT_DIR=subject", "line 7 of gpu.env: SUBJECT_DIR=subject is not a folder that begins with /.*"),
        ("GPU_UUID=0", "line 7 of gpu.env: GPU_UUID=0 is not a card as `nvidia-smi -L` names it; .*"),
        ("MODEL=other", "line 7 of gpu.env: MODEL stands in line 6 too; delete one of them"),
        ("just words", "line 7 of gpu.env is neither KEY=value nor a comment; .*"),
        ("EXPERIMENTS", "line 7 of gpu.env is neither KEY=value nor a comment; .*"),
        (
            "ESCALATE_BASE_URL=https://llm.example/v1\nESCALATE_MODEL=m\nESCALATE_PRICE_IN=3\nESCALATE_PRICE_OUT=15",
            "ESCALATE_BASE_URL needs ESCALATE_MAX_COST as well; set them, or leave it empty",
        ),
        ("MAX_COST=5", "MAX_COST needs to know what an hour costs; set PRICE_PER_HOUR as well"),
    ],
)
def test_bad_line_is_told_once_with_its_place_and_what_to_write(line: str, said: str) -> None:
    found = faults(gpu_env(GOOD + line + "\n"), (), {})

    assert len(found) == 1
    assert re.fullmatch(said, found[0])


@pytest.mark.parametrize(
    ("name", "value"),
    [("RESEARCHER_USER", "0:0"), ("RESEARCHER_USER", "me:me"), ("LLM", ""), ("LLM", "olama"), ("PROFILE", "40gb")],
)
def test_bad_value_of_a_key_that_is_needed_is_told_once(name: str, value: str) -> None:
    text = re.sub(f"^{name}=.*$", f"{name}={value}", GOOD, flags=re.MULTILINE)

    found = faults(gpu_env(text), (), {})

    assert len(found) == 1
    assert f"of gpu.env: {name}={value} is not " in found[0]


def test_key_that_is_needed_and_gone_is_told_with_its_line() -> None:
    found = faults(gpu_env(GOOD.replace("COMPOSE_PROFILES=${LLM}\n", "")), (), {})

    assert found == ["gpu.env does not set COMPOSE_PROFILES; add the line COMPOSE_PROFILES=${LLM}"]


def test_key_of_compose_in_the_owners_file_is_sent_to_gpu_env() -> None:
    found = faults(gpu_env(GOOD), (read("# mine\nLLM=none\n", LOCAL),), {})

    assert found == ["line 2 of gpu.local.env: compose would not see LLM there; set it in gpu.env"]


@pytest.mark.parametrize(
    ("shell", "said"),
    [
        ({"HOURS": "long"}, "HOURS=long in the shell is not a number above 0; write for example HOURS=8, or unset it"),
        (
            {"COMPOSE_PROFILES": ""},
            "COMPOSE_PROFILES in the shell hides the one in gpu.env, which follows LLM; unset it",
        ),
        (
            {"COMPOSE_PROFILES": "x"},
            "COMPOSE_PROFILES in the shell hides the one in gpu.env, which follows LLM; unset it",
        ),
    ],
)
def test_shell_that_overrides_what_compose_reads_is_looked_at_too(shell: dict[str, str], said: str) -> None:
    assert faults(gpu_env(GOOD), (), shell) == [said]


def test_without_an_llm_the_llm_cannot_be_the_one_who_proposes() -> None:
    text = GOOD.replace("hybrid", "llm")

    assert faults(gpu_env(text), (), {}) == []
    assert "PROPOSER=optimizer" in faults(gpu_env(text), (), {"LLM": "none"})[0]


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
def test_what_was_detected_is_read_back_as_it_was(values: dict[str, str], card: str, split: str) -> None:
    local = read(render_local(values, card, split), LOCAL)

    assert local.values() == values
    assert local.broken == ()
    assert faults(gpu_env(GOOD), (local,), {}) == []


@pytest.mark.docker
@pytest.mark.parametrize("shell", [{}, {"LLM": "none", "HOURS": "2"}], ids=["bare", "shell overrides"])
def test_compose_reads_the_same_out_of_the_same_files(tmp_path: Path, shell: dict[str, str]) -> None:
    own = 'MODEL="quoted:1" # and a comment\nNUM_CTX=4096   # four\nTRAINER_CAP_MIB=\n export BUDGET=30\n'
    (tmp_path / "gpu.env").write_text(SHIPPED.replace("TRAINER_CAP_MIB=", "TRAINER_CAP_MIB=9000"))
    (tmp_path / "gpu.local.env").write_text(own)
    (tmp_path / ".env").symlink_to("gpu.env")
    given_by_compose = "\n".join(
        f"      {name}: ${{{name}:-}}" for name, key in KEYS.items() if key.reader is Reader.COMPOSE
    )
    (tmp_path / "compose.yaml").write_text(
        "services:\n  one:\n    image: none\n    env_file: [gpu.env, gpu.local.env]\n    environment:\n"
        + given_by_compose
        + "\n  two:\n    image: none\n    profiles: [ollama]\n"
    )

    services = merged(shell, tmp_path)["services"]
    held = settings(gpu_env((tmp_path / "gpu.env").read_text()), (read(own, LOCAL),), shell)

    assert {name: value for name, value in services["one"]["environment"].items() if value} == held
    assert ("two" in services) == (held["LLM"] == "ollama")
