"""The LLMs of a night, as its settings name them: the one that takes turns, and the stronger one of a plateau."""

from __future__ import annotations

from pathlib import Path

from researcher.llm.client import ChatClient
from researcher.llm.ollama import OllamaClient, OllamaSettings
from researcher.llm.openai import OpenAiClient, OpenAiSettings
from researcher.proposers.llm_conversation import LlmProposer
from researcher.proposers.meter import Ledger, Meter, TokenPrice
from researcher.proposers.prefetch import Apart, Lease
from researcher.proposers.proposers import Stronger
from researcher.settings import Settings
from trainer.jobs import Profile

STRONGER_ANSWER_TOKENS = 8192  # such models think before they answer, and are billed for it
STRONGER_CONTEXT_TOKENS = 65536


def first_llm(settings: Settings, profile: Profile) -> LlmProposer | None:
    """The one that takes turns with the optimiser; None where none was asked for."""
    if not settings.proposer.asks_llm or settings.llm == "none":
        return None
    if settings.llm == "ollama":
        return LlmProposer(_ollama(settings, profile), secrets=settings.secrets())
    client = _endpoint(
        settings,
        base_url=settings.openai_base_url,
        model=settings.model,
        key_file=settings.openai_api_key_file,
        num_ctx=settings.num_ctx or OpenAiSettings.num_ctx,
        num_predict=settings.num_predict,
    )
    price = _price(settings.openai_price_in, settings.openai_price_out)
    return LlmProposer(client, secrets=settings.secrets(), price=price)


def stronger_llm(settings: Settings, ledger: Ledger) -> Stronger | None:
    """The one that is paid, and asked on a plateau; None where none was asked for."""
    if settings.escalate_base_url is None:
        return None
    price = _price(settings.escalate_price_in, settings.escalate_price_out)
    assert price is not None, "the settings see to that"
    assert settings.escalate_max_cost is not None, "the settings see to that"
    client = _endpoint(
        settings,
        base_url=settings.escalate_base_url,
        model=settings.escalate_model,
        key_file=settings.escalate_api_key_file,
        num_ctx=STRONGER_CONTEXT_TOKENS,
        num_predict=STRONGER_ANSWER_TOKENS,
    )
    meter = Meter(client, price, settings.escalate_max_cost, ledger)
    return Stronger(LlmProposer(meter, secrets=settings.secrets(), price=price), meter)


def lease(settings: Settings, profile: Profile) -> Lease:
    """An LLM elsewhere takes nothing of a trial, and one on the processor nothing that a budget of processor seconds
    counts. On a card that both share it would train fewer steps, so there it speaks between trials."""
    return Apart(profile.device == "cpu" or settings.llm == "openai")


def _endpoint(
    settings: Settings,
    *,
    base_url: str | None,
    model: str | None,
    key_file: Path | None,
    num_ctx: int,
    num_predict: int,
) -> ChatClient:
    assert base_url is not None, "the settings see to that"
    assert model is not None, "the settings see to that"
    deadline_s = settings.llm_deadline_s
    return OpenAiClient(OpenAiSettings(base_url, model, key_file, num_ctx, num_predict, deadline_s=deadline_s))


def _ollama(settings: Settings, profile: Profile) -> ChatClient:
    placement = settings.placement()
    return OllamaClient(
        OllamaSettings(
            host=settings.ollama_host,
            model=placement.model,
            num_ctx=placement.num_ctx,
            num_batch=placement.num_batch,
            num_predict=settings.num_predict,
            think=settings.think,
            on_gpu=profile.device == "cuda",
            resident=placement.resident,
            reserve_mib=placement.reserve_mib,
            deadline_s=settings.llm_deadline_s,
        )
    )


def _price(sent: float | None, answered: float | None) -> TokenPrice | None:
    return None if sent is None or answered is None else TokenPrice(sent, answered)
