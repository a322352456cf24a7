"""What is read from the environment, and what is refused in one sentence that names the key."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from researcher.llm.gpu_memory_split import Placement
from researcher.optimizer.optimizer import Sampler
from researcher.proposers.schedule import Mix
from researcher.settings import Settings
from trainer.jobs import ProfileError, profile_named

PLACES = {"REDIS_URL": "redis://redis/0", "SUBJECT_DIR": "subject", "JOURNAL_DIR": "journal", "DATA_DIR": "data"}

ENDPOINT = {"OPENAI_BASE_URL": "http://one", "LLM": "openai", "MODEL": "m"}
PAID = {"ESCALATE_MODEL": "m", "ESCALATE_PRICE_IN": "1", "ESCALATE_PRICE_OUT": "1", "ESCALATE_MAX_COST": "1"}


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Settings from an environment of these names and nothing else."""

    def settings(**environment: str) -> Settings:
        for name in Settings.model_fields:
            monkeypatch.delenv(name.upper(), raising=False)
        for name, value in (PLACES | environment).items():
            monkeypatch.setenv(name, value)
        return Settings()

    return settings


def test_an_empty_value_is_not_set(read) -> None:
    empty = {name.upper(): "" for name in Settings.model_fields if name.upper() not in PLACES}

    assert read(**empty) == read()
    assert (read(**empty).hours, read(**empty).proposer, read(**empty).llm) == (None, Mix.HYBRID, "ollama")


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        (
            {"OPENAI_BASE_URL": "", "LLM": "openai", "MODEL": "m"},
            "needs the address of an endpoint; set for example https://llm.example/v1",
        ),
        ({"OPENAI_BASE_URL": "http://one", "LLM": "openai"}, "needs to know which model; set MODEL as the endpoint"),
        (ENDPOINT | {"OPENAI_BASE_URL": "llm.example/v1"}, "no address of an endpoint; write for example https://"),
        (ENDPOINT | {"OPENAI_BASE_URL": "https://key@one/v1"}, "a key does not belong into the address"),
        (ENDPOINT | {"OPENAI_PRICE_IN": "1"}, "set both OPENAI_PRICE_IN and OPENAI_PRICE_OUT, or neither"),
        ({"OPENAI_API_KEY_FILE": "/nowhere/key"} | ENDPOINT, "/nowhere/key cannot be read (FileNotFoundError)"),
        ({"LLM": "gpt"}, "Input should be 'ollama', 'none' or 'openai'"),
        ({"LLM": "none", "PROPOSER": "llm"}, "with LLM=none nobody can propose for PROPOSER=llm"),
        (
            {"ESCALATE_BASE_URL": "http://one"},
            "a paid LLM needs ESCALATE_MODEL, ESCALATE_PRICE_IN, ESCALATE_PRICE_OUT, ",
        ),
        ({"ESCALATE_BASE_URL": "http://one", "ESCALATE_MODEL": "m"}, "needs ESCALATE_PRICE_IN, ESCALATE_PRICE_OUT"),
        (
            {"ESCALATE_BASE_URL": "http://one", "PROPOSER": "optimizer"} | PAID,
            "with PROPOSER=optimizer no LLM is asked",
        ),
        ({"ESCALATE_BASE_URL": "http://one", "PROPOSER": "random"} | PAID, "with PROPOSER=random no LLM is asked"),
        ({"OPTIMIZER": "grid"}, "Input should be 'tpe', 'cmaes' or 'random'"),
        ({"ESCALATE_MAX_COST": "0"}, "greater than 0"),
        ({"MAX_COST": "5"}, "MAX_COST needs a price to count with; set PRICE_PER_HOUR"),
        ({"MAX_COST": "0", "PRICE_PER_HOUR": "1"}, "greater than 0"),
        ({"HOURS": "-1"}, "greater than 0"),
        ({"NUM_CTX": "100"}, "greater than or equal to 2048"),
        ({"TRAINER_CAP_MIB": "12 GB"}, "valid integer"),
    ],
)
def test_what_cannot_be_is_refused_with_the_next_step(read, environment: dict[str, str], says: str) -> None:
    with pytest.raises(ValidationError) as refused:
        read(**environment)

    (fault,) = refused.value.errors()
    assert says in fault["msg"]
    assert fault["loc"] == (next(iter(environment)),) or fault["loc"] == (next(iter(environment)).lower(),)


@pytest.mark.parametrize("proposer", Mix)
def test_uniform_draws_are_asked_for_by_either_key(read, proposer: Mix) -> None:
    assert read(PROPOSER=proposer.value, OPTIMIZER="random").sampler() is Sampler.RANDOM
    assert (read(PROPOSER=proposer.value).sampler() is Sampler.RANDOM) == (proposer is Mix.RANDOM)


def test_the_placement_is_the_profiles_but_for_what_was_set(read) -> None:
    assert read(PROFILE="48gb").placement() == Placement("qwen3.5:9b", 32768, 12288)
    assert read(PROFILE="12gb").placement() == Placement("qwen3.5:4b", 16384, 6656, resident=False)
    assert read(PROFILE="48gb", MODEL="other:7b", NUM_CTX="8192", LLM_RESERVE_MIB="9000").placement() == Placement(
        "other:7b", 8192, 9000
    )


def test_the_trainers_cap_replaces_the_profiles_on_a_card_and_nowhere_else(read) -> None:
    capped = read(PROFILE="48gb", TRAINER_CAP_MIB="20000", BUDGET="60").trial_profile()

    assert (capped.caps.vram_mib, capped.budget.amount) == (20000, 60)
    assert capped.caps.processes == profile_named("48gb").caps.processes
    assert read(PROFILE="cpu", TRAINER_CAP_MIB="20000").trial_profile() == profile_named("cpu")


@pytest.mark.parametrize("name", ["auto", "9000gb"])
def test_a_profile_that_is_not_in_the_table_is_refused_with_those_that_are(read, name: str) -> None:
    with pytest.raises(ProfileError, match=f"{name}' is not known; choose one of: cpu, 12gb"):
        read(PROFILE=name).trial_profile()
