"""The researcher's settings, read from the environment once, at the edge.

A bad value stops the start and is named with its key; an empty one counts as not set. Folders are volumes of their own
in a container and neighbours below one state folder in local mode.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from researcher.decision.rules import CLAIM_HOURS, CrashReset, Rule
from researcher.llm.gpu_memory_split import Placement, placement_for
from researcher.llm.ollama_api import base_url
from researcher.llm.openai import checked_url, read_key
from researcher.llm.thinking import Think
from researcher.optimizer.optimizer import Sampler
from researcher.proposers.schedule import USUAL_SHARES, Mix, Shares
from trainer.jobs import Profile, profile_named

ESCALATION_NEEDS = ("ESCALATE_MODEL", "ESCALATE_PRICE_IN", "ESCALATE_PRICE_OUT", "ESCALATE_MAX_COST")


class Settings(BaseSettings):
    """One field, one environment variable of the same name in capitals."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    redis_url: str
    redis_password_file: Path | None = None
    subject_dir: Path
    journal_dir: Path
    data_dir: Path
    profile: str = "cpu"
    budget: float | None = Field(default=None, gt=0)
    own_constants: dict[str, int] | None = None
    trainer_cap_mib: int | None = Field(default=None, gt=0)
    tag: str | None = None
    price_per_hour: float | None = Field(default=None, ge=0)
    price_per_kwh: float | None = Field(default=None, ge=0)
    price_per_mtoken: float | None = Field(default=None, ge=0)
    experiments: int | None = Field(default=None, ge=1)
    hours: float | None = Field(default=None, gt=0)
    max_cost: float | None = Field(default=None, gt=0)
    proposer: Mix = Mix.HYBRID
    edit_share: float = Field(default=USUAL_SHARES.edits, ge=0, le=1)
    advice_share: float = Field(default=USUAL_SHARES.advice, ge=0, le=1)
    optimizer: Sampler = Sampler.TPE
    rule: Rule = Rule.WALK
    crash_reset: CrashReset = CrashReset.CONFIRMED
    claim_hours: float = Field(default=CLAIM_HOURS, gt=0)
    seed: int | None = None
    llm: Literal["ollama", "none", "openai"] = "ollama"
    ollama_host: str = "http://127.0.0.1:11434"
    model: str | None = None
    num_ctx: int | None = Field(default=None, ge=2048)
    llm_reserve_mib: int | None = Field(default=None, gt=0)
    num_predict: int = Field(default=4096, ge=256)
    think: Think = Think.OFF
    llm_deadline_s: float = Field(default=600, gt=0)

    openai_api_key_file: Path | None = None
    openai_price_in: float | None = Field(default=None, ge=0)
    openai_price_out: float | None = Field(default=None, ge=0)
    openai_base_url: str | None = Field(default=None, validate_default=True)  # checked against the others before it
    escalate_model: str | None = None
    escalate_api_key_file: Path | None = None
    escalate_price_in: float | None = Field(default=None, gt=0)
    escalate_price_out: float | None = Field(default=None, gt=0)
    escalate_max_cost: float | None = Field(default=None, gt=0)
    escalate_base_url: str | None = None  # as above

    @field_validator("ollama_host")
    @classmethod
    def _names_a_server(cls, host: str) -> str:
        base_url(host)
        return host

    @field_validator("openai_api_key_file", "escalate_api_key_file")
    @classmethod
    def _can_be_read(cls, file: Path | None) -> Path | None:
        if file is not None:
            read_key(file)
        return file

    @field_validator("openai_base_url")
    @classmethod
    def _is_whole(cls, url: str | None, others: ValidationInfo) -> str | None:
        held = others.data
        if held.get("llm") != "openai":
            return url
        if url is None:
            raise ValueError("LLM=openai needs the address of an endpoint; set for example https://llm.example/v1")
        if held.get("model") is None:
            raise ValueError("LLM=openai needs to know which model; set MODEL as the endpoint names it")
        if (held.get("openai_price_in") is None) != (held.get("openai_price_out") is None):
            raise ValueError("set both OPENAI_PRICE_IN and OPENAI_PRICE_OUT, or neither")
        return checked_url(url)

    @field_validator("escalate_base_url")
    @classmethod
    def _has_all_it_needs(cls, url: str | None, others: ValidationInfo) -> str | None:
        if url is None:
            return None
        missing = [name for name in ESCALATION_NEEDS if name.lower() in others.data and not others.data[name.lower()]]
        if missing:
            raise ValueError(f"a paid LLM needs {', '.join(missing)} as well; set them, or leave this empty")
        proposer = others.data.get("proposer")
        if proposer is not None and not proposer.asks_llm:
            raise ValueError(f"with PROPOSER={proposer} no LLM is asked; set PROPOSER=hybrid, or leave this empty")
        return checked_url(url)

    @field_validator("max_cost")
    @classmethod
    def _has_a_price(cls, max_cost: float | None, others: ValidationInfo) -> float | None:
        if max_cost is not None and others.data.get("price_per_hour") is None:
            raise ValueError("MAX_COST needs a price to count with; set PRICE_PER_HOUR, or HOURS instead of it")
        return max_cost

    @field_validator("llm")
    @classmethod
    def _can_be_asked(cls, llm: str, others: ValidationInfo) -> str:
        if llm == "none" and others.data.get("proposer") is Mix.LLM:
            raise ValueError("with LLM=none nobody can propose for PROPOSER=llm; set PROPOSER=hybrid or LLM=ollama")
        return llm

    def trial_profile(self) -> Profile:
        """The profile with the budget and the cap asked for. Raises ProfileError for an unknown name."""
        profile = profile_named(self.profile)
        if self.own_constants is not None:
            profile = profile.adopted(self.own_constants)
        if self.budget is not None:
            profile = profile.with_budget(self.budget)
        if self.trainer_cap_mib is not None and profile.caps.vram_mib is not None:
            profile = replace(profile, caps=replace(profile.caps, vram_mib=self.trainer_cap_mib))
        return profile

    def sampler(self) -> Sampler:
        """PROPOSER=random says it already."""
        return Sampler.RANDOM if self.proposer is Mix.RANDOM else self.optimizer

    def shares(self) -> Shares:
        """Of a hybrid night."""
        return Shares(self.edit_share, self.advice_share)

    def placement(self) -> Placement:
        """Where the LLM goes: as the profile has it, but for what was asked for."""
        placement = placement_for(self.profile)
        return replace(
            placement,
            model=self.model or placement.model,
            num_ctx=self.num_ctx or placement.num_ctx,
            reserve_mib=self.llm_reserve_mib or placement.reserve_mib,
        )

    def password(self) -> str | None:
        """Redis's password, from its file."""
        return None if self.redis_password_file is None else self.redis_password_file.read_text().strip()

    def secrets(self) -> list[str]:
        """What this process knows and tells nobody."""
        files = [file for file in (self.openai_api_key_file, self.escalate_api_key_file) if file is not None]
        secrets = (self.password(), urlsplit(self.redis_url).password, *map(read_key, files))
        return [secret for secret in secrets if secret]


def faults(error: ValidationError) -> list[str]:
    """What is wrong with the environment, a sentence for each key."""
    return [f"setting {'_'.join(map(str, fault['loc'])).upper()}: {fault['msg']}" for fault in error.errors()]
