"""The LLMs of a night, as its settings name them: the one that takes turns, and the stronger one of a plateau."""

from __future__ import annotations

from researcher.config.settings import Settings
from researcher.llm.openai import OpenAiClient, OpenAiSettings
from researcher.proposers.llm_conversation import LlmProposer
from researcher.proposers.meter import Ledger, Meter, TokenPrice
from researcher.proposers.prefetch import Apart, Lease
from researcher.proposers.proposers import Stronger
from trainer.jobs import Profile

STRONGER_ANSWER_TOKENS = 8192  # such models think before they answer, and are billed for it
STRONGER_CONTEXT_TOKENS = 65536


def first_llm(settings: Settings, profile: Profile) -> LlmProposer | None:
    """The one that takes turns with the optimiser; None where none was asked for."""
    client_for = settings.backend.client
    if not settings.proposer.asks_llm or client_for is None:
        return None
    price = _price(settings.openai_price_in, settings.openai_price_out) if settings.backend.is_endpoint else None
    return LlmProposer(client_for(settings.llm_options(profile)), secrets=settings.secrets(), price=price)


def stronger_llm(settings: Settings, ledger: Ledger) -> Stronger | None:
    """The one that is paid, and asked on a plateau; None where none was asked for."""
    if settings.escalate_base_url is None:
        return None
    price = _price(settings.escalate_price_in, settings.escalate_price_out)
    assert price is not None, "the settings see to that"
    assert settings.escalate_max_cost is not None, "the settings see to that"
    assert settings.escalate_model is not None, "the settings see to that"
    client = OpenAiClient(
        OpenAiSettings(
            settings.escalate_base_url,
            settings.escalate_model,
            settings.escalate_api_key_file,
            STRONGER_CONTEXT_TOKENS,
            STRONGER_ANSWER_TOKENS,
            deadline_s=settings.llm_deadline_s,
        )
    )
    meter = Meter(client, price, settings.escalate_max_cost, ledger)
    return Stronger(LlmProposer(meter, secrets=settings.secrets(), price=price), meter)


def lease(settings: Settings, profile: Profile) -> Lease:
    """An LLM elsewhere takes nothing of a trial, and one on the processor nothing that a budget of processor seconds
    counts. On a GPU that both share a trial would train fewer steps, so there the LLM is asked between trials."""
    return Apart(profile.device == "cpu" or not settings.backend.holds_gpu)


def _price(sent: float | None, answered: float | None) -> TokenPrice | None:
    return None if sent is None or answered is None else TokenPrice(sent, answered)
