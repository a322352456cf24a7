"""From settings to the LLMs of a run."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from researcher.config.settings import Settings
from researcher.errors import BadValue, LlmUnavailable, SpendingLimitReached
from researcher.journal.writer import Journal
from researcher.llm.backends import BACKENDS, DEFAULT_BACKEND, LlmBackend, backend_named
from researcher.llm.client import HoldsGpu
from researcher.llm.leased import LeasedPolicy
from researcher.prompting.prompt import PromptContext
from researcher.proposers.prefetch import FixedPolicy
from researcher.wiring import first_llm, gpu_sharing_policy, leased_client, stronger_llm
from tests.doubles.openai_server import openai_double, spoken
from tests.fixtures.journal_story import accepted
from trainer.jobs import RedisClient, profile_named

COUNTS = (1000, 100)
REPLY = "TITLE: larger\nHYPOTHESIS: more is more\nSET X = 2"
KEY = "sk-the-key-of-the-endpoint-1234"
CONTEXT = PromptContext(program="", profile="", source="X = 1\n", incumbent="")


@pytest.fixture
def settings(tmp_path: Path):
    key = tmp_path / "key"
    key.write_text(KEY)

    def made(**more: object) -> Settings:
        places = {"subject_dir": tmp_path, "journal_dir": tmp_path, "data_dir": tmp_path}
        return Settings(redis_url="redis://one", openai_api_key_file=key, escalate_api_key_file=key, **places, **more)  # type: ignore[arg-type]

    return made


def test_endpoint_elsewhere_is_asked_with_the_key_and_what_it_bills_is_counted(settings) -> None:
    with openai_double(spoken(f"{REPLY}\n# {KEY}", usage=COUNTS)) as server:
        chosen = settings(
            llm="openai", model="large", openai_price_in=1.0, openai_price_out=10.0, openai_base_url=server.url
        )
        llm = first_llm(chosen, profile_named("cpu"))
        assert llm is not None
        draft = llm.propose(CONTEXT, lambda: None, accepted)

    assert draft.rejected is None
    assert server.keys == [f"Bearer {KEY}"]
    assert server.questions[0]["model"] == "large"
    assert draft.proposal.cost is not None
    assert draft.proposal.cost.money == pytest.approx(0.002)
    assert not any(KEY in exchange.prompt + exchange.reply for exchange in draft.exchanges)


def test_price_of_an_answer_without_counts_is_not_known(settings) -> None:
    with openai_double(spoken(REPLY, usage=None)) as server:
        prices = {"openai_price_in": 1.0, "openai_price_out": 1.0}
        llm = first_llm(settings(llm="openai", model="m", **prices, openai_base_url=server.url), profile_named("cpu"))
        assert llm is not None
        draft = llm.propose(CONTEXT, lambda: None, accepted)

    assert draft.proposal.cost is not None
    assert draft.proposal.cost.money is None


def test_room_that_went_into_thoughts_nobody_shows_is_doubled_once(settings) -> None:
    with openai_double(spoken("", finish="length", usage=COUNTS), spoken(REPLY, usage=COUNTS)) as server:
        llm = first_llm(settings(llm="openai", model="m", openai_base_url=server.url), profile_named("cpu"))
        assert llm is not None
        draft = llm.propose(CONTEXT, lambda: None, accepted)

    assert draft.rejected is None
    assert [asked["max_tokens"] for asked in server.questions] == [8192, 16384]


@pytest.mark.parametrize("backend", BACKENDS.values(), ids=lambda backend: backend.name)
def test_only_a_backend_whose_model_shares_the_gpu_can_unload_it(settings, backend: LlmBackend) -> None:
    chosen = settings(llm=backend.name, model="m", openai_base_url="http://127.0.0.1:9")

    client = backend.client and backend.client(chosen.llm_options(profile_named("48gb")))

    assert isinstance(client, HoldsGpu) == backend.holds_gpu
    assert chosen.backend is backend


@pytest.mark.parametrize(
    ("backend", "profile", "beside", "policy"),
    [
        ("ollama", "48gb", True, LeasedPolicy),
        ("ollama", "16gb", False, LeasedPolicy),
        ("ollama", "cpu", None, FixedPolicy),
        ("openai", "48gb", None, FixedPolicy),
        ("none", "48gb", None, FixedPolicy),
    ],
    ids=["co-resident", "swap", "split: CPU", "split: remote", "no LLM"],
)
def test_an_llm_that_shares_the_gpu_of_the_trials_is_asked_under_its_lease_alone(
    backend: str, profile: str, beside: bool | None, policy: type, settings, bus: RedisClient
) -> None:
    chosen = settings(llm=backend, profile=profile, model="m", openai_base_url="http://127.0.0.1:9")

    leased = leased_client(chosen, profile_named(profile), bus)

    assert (None if leased is None else leased.beside) is beside
    assert type(gpu_sharing_policy(chosen, profile_named(profile), leased)) is policy
    llm = first_llm(chosen, profile_named(profile), leased)
    assert (llm is None) == (backend == "none")
    if leased is not None and llm is not None:
        with pytest.raises(LlmUnavailable, match="no trainer shows itself"):
            llm.propose(CONTEXT, lambda: None, accepted)


def test_an_unknown_backend_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(BadValue) as refused:
        backend_named("gpt")

    assert all(name in refused.value.found for name in BACKENDS)
    assert backend_named(None) is backend_named("") is BACKENDS[DEFAULT_BACKEND]


def test_nobody_is_asked_where_nobody_was_named(settings) -> None:
    assert first_llm(settings(llm="none"), profile_named("cpu")) is None
    assert first_llm(settings(proposer="optimizer"), profile_named("cpu")) is None
    assert first_llm(settings(proposer="random"), profile_named("cpu")) is None


def test_stronger_one_is_off_unless_named_and_asked_for_nothing_beyond_its_cap(settings, tmp_path: Path) -> None:
    wanted = {"escalate_model": "strong", "escalate_price_in": 1.0, "escalate_price_out": 1.0}
    with closing(Journal(tmp_path)) as journal, openai_double(spoken(REPLY)) as server:
        stronger = stronger_llm(settings(**wanted, escalate_max_cost=0.001, escalate_base_url=server.url), journal)
        assert stronger is not None
        with pytest.raises(SpendingLimitReached, match=r"0\.0010 of 0\.001 are left"):
            stronger.llm.propose(CONTEXT, lambda: None, accepted)

        assert server.questions == []
        assert stronger_llm(settings(), journal) is None


def test_key_that_is_taken_away_in_the_run_is_said_and_the_run_goes_on_without(settings, tmp_path: Path) -> None:
    llm = first_llm(settings(llm="openai", model="m", openai_base_url="http://127.0.0.1:9"), profile_named("cpu"))
    (tmp_path / "key").unlink()

    assert llm is not None
    with pytest.raises(LlmUnavailable, match="cannot be read"):
        llm.check_available()
