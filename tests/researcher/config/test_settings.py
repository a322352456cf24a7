"""What is read from the environment, and what is refused with the key and the next step."""

from __future__ import annotations

import re
import subprocess

import pytest
from pydantic import ValidationError

from researcher.config.setting import Reader, Setting, SettingFault, Source
from researcher.config.settings import TABLE, OtherKeys, Settings, faults
from researcher.llm.gpu_memory_split import Placement
from researcher.optimizer.optimizer import Sampler
from researcher.proposers.schedule import Mix
from services.researcher import start as researcher_start
from services.trainer import start as trainer_start
from tests import ROOT
from trainer.jobs import ProfileError, is_id, profile_named, trial_id

PLACES = {"REDIS_URL": "redis://redis/0", "SUBJECT_DIR": "subject", "JOURNAL_DIR": "journal", "DATA_DIR": "data"}

SERVICES = "".join(module.read_text() for module in (ROOT / "services").rglob("*.py"))
ENDPOINT = {"OPENAI_BASE_URL": "http://one", "LLM": "openai", "MODEL": "m"}
PAID = {"ESCALATE_MODEL": "m", "ESCALATE_PRICE_IN": "1", "ESCALATE_PRICE_OUT": "1", "ESCALATE_MAX_COST": "1"}


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch):
    """Settings from an environment of these names and nothing else."""

    def settings(**environment: str) -> Settings:
        for name in TABLE:
            monkeypatch.delenv(name, raising=False)
        for name, value in (PLACES | environment).items():
            monkeypatch.setenv(name, value)
        return Settings()

    return settings


@pytest.fixture
def refused(read):
    """What is wrong with such an environment."""

    def found(**environment: str) -> list[SettingFault]:
        with pytest.raises(ValidationError) as error:
            read(**environment)
        return faults(error.value)

    return found


# The table


@pytest.mark.parametrize("row", TABLE.values(), ids=lambda row: row.key)
def test_every_row_has_help_and_a_reader(row: Setting) -> None:
    assert row.help.endswith(".")
    assert row.readers
    assert row.source is Source.GPU_ENV or not row.shipped


def test_no_key_is_two_rows() -> None:
    assert len(TABLE) == len(OtherKeys.model_fields) + len(Settings.model_fields)


def test_the_table_says_of_every_key_whether_the_researcher_and_the_entry_points_read_it() -> None:
    def read_by(reader: Reader) -> set[str]:
        return {row.key for row in TABLE.values() if reader in row.readers}

    assert read_by(Reader.RESEARCHER) == {name.upper() for name in Settings.model_fields}
    named = set(re.findall(r'"([A-Z_]+)"', SERVICES))
    for reader, entry_point in ((Reader.TRAINER, trainer_start), (Reader.SERVICES, researcher_start)):
        at_the_start = {name.upper() for name in entry_point.ContainerSettings.model_fields}
        assert at_the_start <= read_by(reader) <= at_the_start | named


def test_where_gpu_env_can_set_a_key_its_example_is_a_value_and_nonsense_is_none() -> None:
    for row in TABLE.values():
        if row.source is Source.GPU_ENV:
            assert row.written is not None
            assert row.fault_of(row.written.example) is None
            assert row.fault_of(row.shipped) is None
            assert row.fault_of("$nonsense !") is not None


# The environment


def test_an_empty_value_is_not_set(read) -> None:
    empty = {name: "" for name in TABLE if name not in PLACES}

    assert read(**empty) == read()
    assert (read(**empty).hours, read(**empty).proposer, read(**empty).llm) == (None, Mix.HYBRID, "ollama")


@pytest.mark.parametrize(
    ("environment", "key"),
    [
        (ENDPOINT | {"OPENAI_BASE_URL": ""}, "OPENAI_BASE_URL"),
        (ENDPOINT | {"MODEL": ""}, "MODEL"),
        (ENDPOINT | {"OPENAI_BASE_URL": "llm.example/v1"}, "OPENAI_BASE_URL"),
        (ENDPOINT | {"OPENAI_PRICE_IN": "1"}, "OPENAI_PRICE_IN"),
        (ENDPOINT | {"OPENAI_PRICE_OUT": "1"}, "OPENAI_PRICE_IN"),
        (ENDPOINT | {"OPENAI_API_KEY_FILE": "/nowhere/key"}, "OPENAI_API_KEY_FILE"),
        ({"LLM": "gpt"}, "LLM"),
        ({"LLM": "none", "PROPOSER": "llm"}, "PROPOSER"),
        ({"ESCALATE_BASE_URL": "http://one"}, "ESCALATE_BASE_URL"),
        ({"ESCALATE_BASE_URL": "http://one", "ESCALATE_MODEL": "m"}, "ESCALATE_BASE_URL"),
        ({"ESCALATE_BASE_URL": "http://one", "PROPOSER": "optimizer"} | PAID, "ESCALATE_BASE_URL"),
        ({"ESCALATE_BASE_URL": "http://one", "PROPOSER": "random"} | PAID, "ESCALATE_BASE_URL"),
        ({"ESCALATE_MAX_COST": "0"}, "ESCALATE_MAX_COST"),
        ({"MAX_COST": "5"}, "MAX_COST"),
        ({"MAX_COST": "0", "PRICE_PER_HOUR": "1"}, "MAX_COST"),
        ({"HOURS": "-1"}, "HOURS"),
        ({"HOURS": "nan"}, "HOURS"),
        ({"NUM_CTX": "100"}, "NUM_CTX"),
        ({"TRAINER_CAP_MIB": "12 GB"}, "TRAINER_CAP_MIB"),
        ({"OLLAMA_HOST": "a b:1"}, "OLLAMA_HOST"),
        ({"OWN_CONSTANTS": '{"MAX_SEQ_LEN": "long"}'}, "OWN_CONSTANTS"),
        ({"REDIS_URL": ""}, "REDIS_URL"),
        ({"TAG": "two words"}, "TAG"),
    ],
)
def test_what_cannot_be_is_refused_with_its_key_and_the_next_step(
    refused, environment: dict[str, str], key: str
) -> None:
    (fault,) = refused(**environment)

    assert fault.key == key
    assert fault.found
    assert fault.next_step


@pytest.mark.parametrize("tag", ["nov30", "nov30-2", "A_b-c", "-x", "x" * 100])
def test_a_tag_can_name_a_branch_and_the_trials_of_the_run(tag: str) -> None:
    assert TABLE["TAG"].fault_of(tag) is None

    subprocess.run(["git", "check-ref-format", f"refs/heads/overnight/{tag}"], check=True)
    assert is_id(trial_id(tag, 10**9, 10**9, 10**9).encode())


@pytest.mark.parametrize(
    "tag", ["two words", "a/b", "a.b", "..", "ä", "a*", "a[b]", "a:b", "a\\b", "a~1", "@", "a\nb", "$x", "x" * 101]
)
def test_a_tag_that_could_not_name_both_is_refused(tag: str) -> None:
    assert TABLE["TAG"].fault_of(tag) is not None


def test_every_bad_value_is_told_and_then_what_does_not_agree(refused) -> None:
    both = {"LLM": "none", "PROPOSER": "llm", "MAX_COST": "5"}

    assert [fault.key for fault in refused(HOURS="0", BUDGET="x", MAX_COST="5")] == ["HOURS", "BUDGET"]
    assert [fault.key for fault in refused(**both)] == ["MAX_COST", "PROPOSER"]


def test_an_address_that_holds_a_key_is_refused_and_not_quoted(refused) -> None:
    (fault,) = refused(**ENDPOINT | {"OPENAI_BASE_URL": "https://sk-secret@one/v1"})

    assert fault.key == "OPENAI_BASE_URL"
    assert "sk-secret" not in str(fault)


def test_uniform_draws_are_asked_for_as_a_proposer(read) -> None:
    assert {mix for mix in Mix if read(PROPOSER=mix.value).sampler() is Sampler.RANDOM} == {Mix.RANDOM}


# What follows from them


def test_the_placement_is_the_profiles_but_for_what_was_set(read) -> None:
    assert read(PROFILE="48gb").placement() == Placement("qwen3.5:9b", 32768, 12288)
    assert read(PROFILE="12gb").placement() == Placement("qwen3.5:4b", 16384, 6656, resident=False)
    assert read(PROFILE="48gb", MODEL="other:7b", NUM_CTX="8192", LLM_RESERVE_MIB="9000").placement() == Placement(
        "other:7b", 8192, 9000
    )


def test_the_trainers_cap_replaces_the_profiles_on_a_gpu_and_nowhere_else(read) -> None:
    capped = read(PROFILE="48gb", TRAINER_CAP_MIB="20000", BUDGET="60").trial_profile()

    assert (capped.caps.vram_mib, capped.budget.amount) == (20000, 60)
    assert capped.caps.processes == profile_named("48gb").caps.processes
    assert read(PROFILE="cpu", TRAINER_CAP_MIB="20000").trial_profile() == profile_named("cpu")


@pytest.mark.parametrize("name", ["auto", "9000gb"])
def test_a_profile_that_is_not_in_the_table_is_refused_with_those_that_are(read, name: str) -> None:
    with pytest.raises(ProfileError, match=f"{name}' is not known; choose one of: cpu, 12gb"):
        read(PROFILE=name).trial_profile()
