"""The researcher's settings, read from the environment once, at the edge.

A bad value stops the start and is named with its key. Folders are volumes of their own in a container and neighbours
below one state folder in local mode.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from researcher.decision import Rule
from researcher.ollama import base_url
from trainer.jobs import Profile, profile_named


class Mix(StrEnum):
    """Who proposes: `hybrid` takes turns, the others are for ablation."""

    HYBRID = "hybrid"
    LLM = "llm"
    OPTIMIZER = "optimizer"


class CrashReset(StrEnum):
    """Where to fall back to when the incumbent itself fails after three failures in a row."""

    CONFIRMED = "confirmed"
    BASELINE = "baseline"


class Settings(BaseSettings):
    """One field, one environment variable of the same name in capitals."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    redis_url: str
    redis_password_file: Path | None = None
    subject_dir: Path
    journal_dir: Path
    data_dir: Path
    profile: str = "cpu"
    budget: float | None = Field(default=None, gt=0)
    tag: str | None = None
    experiments: int | None = Field(default=None, ge=1)
    proposer: Mix = Mix.HYBRID
    rule: Rule = Rule.WALK
    crash_reset: CrashReset = CrashReset.CONFIRMED
    seed: int | None = None
    ollama_host: str = "http://127.0.0.1:11434"
    model: str = "qwen3.5:9b"
    num_ctx: int = Field(default=16384, ge=2048)
    num_predict: int = Field(default=4096, ge=256)
    llm_deadline_s: float = Field(default=600, gt=0)
    price_per_hour: float | None = Field(default=None, ge=0)
    price_per_kwh: float | None = Field(default=None, ge=0)
    price_per_mtoken: float | None = Field(default=None, ge=0)

    @field_validator("ollama_host")
    @classmethod
    def _names_a_server(cls, host: str) -> str:
        base_url(host)
        return host

    def trial_profile(self) -> Profile:
        """The profile with the budget asked for. Raises ProfileError for an unknown name."""
        profile = profile_named(self.profile)
        return profile if self.budget is None else profile.with_budget(self.budget)

    def password(self) -> str | None:
        """Redis's password, from its file."""
        return None if self.redis_password_file is None else self.redis_password_file.read_text().strip()
