"""The settings that local mode takes from options and from the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.local import given_settings


@pytest.mark.parametrize(
    ("shell", "options", "given"),
    [
        ({}, {}, {}),
        ({"PROPOSER": "llm"}, {}, {"PROPOSER": "llm"}),
        ({"PROPOSER": "llm"}, {"PROPOSER": "optimizer"}, {"PROPOSER": "optimizer"}),
        ({"LLM": "", "NUM_CTX": "8192"}, {}, {"NUM_CTX": "8192"}),
        ({"HOURS": "8", "TAG": "x", "SEED": "1"}, {"HOURS": "2"}, {"HOURS": "2"}),
        ({"REDIS_URL": "redis://h", "PROFILE": "cpu", "BUDGET": "3", "HOME": "/root"}, {}, {}),
    ],
)
def test_options_come_before_the_environment_and_no_default_before_either(
    shell: dict[str, str], options: dict[str, str], given: dict[str, str]
) -> None:
    assert given_settings(shell, options) == given


def test_a_file_is_remembered_by_its_absolute_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    given = given_settings({"OPENAI_API_KEY_FILE": "key"}, {"ESCALATE_API_KEY_FILE": "/k"})

    assert given == {"OPENAI_API_KEY_FILE": str(tmp_path / "key"), "ESCALATE_API_KEY_FILE": "/k"}
