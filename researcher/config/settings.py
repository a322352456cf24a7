"""The table of settings, read from the environment once at the start.

Each field of `OtherKeys` or of `Settings` is a row. Its name in capitals is the key. Its annotation gives the type with
the range and the readers, and the string below it is the help. Tests compare gpu.env, `--help` and the pages with the
table. A bad value stops the start with a message that names the key; an empty value counts as not set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from researcher.config.rules import Disagreement, conflicts
from researcher.config.setting import (
    AddressForm,
    AnswerTokens,
    ContextTokens,
    Count,
    EndpointModelForm,
    FolderForm,
    GpuForm,
    Hours,
    KeyFileForm,
    Limit,
    Mib,
    Moment,
    OllamaModelForm,
    PackagesForm,
    PlaceForm,
    Port,
    Price,
    Reader,
    SamePathForm,
    Seconds,
    SettingFault,
    Share,
    Shipped,
    Source,
    UserForm,
    checked_tag,
    one_of,
    rows_of,
)
from researcher.decision.rules import CLAIM_HOURS, CrashReset, Rule
from researcher.files import read_text
from researcher.journal.records import Goal, Prices
from researcher.llm.backends import DEFAULT_BACKEND, IN_CONTAINERS, LlmBackend, backend_named
from researcher.llm.client import LlmOptions, Think
from researcher.llm.gpu_memory_split import Placement, placement_for
from researcher.llm.ollama_api import base_url
from researcher.llm.openai import checked_url, read_key
from researcher.optimizer.optimizer import Sampler
from researcher.proposers.schedule import USUAL_SHARES, Mix, Schedule
from researcher.repository.backup_place import checked_place
from researcher.source.proposal import ProposerName
from trainer.jobs import PROFILES, Profile, profile_named
from trainer.jobs.task import Task

_RESEARCHER, _TRAINER, _SERVICES, _COMPOSE = Reader


_Address = Annotated[str, AfterValidator(checked_url), AddressForm]
_Backend = Annotated[str, AfterValidator(lambda name: backend_named(name).name), one_of(IN_CONTAINERS)]
_Tag = Annotated[str, AfterValidator(checked_tag)]
_Place = Annotated[str, AfterValidator(checked_place)]
_Server = Annotated[str, AfterValidator(base_url)]


class OtherKeys(BaseModel):
    """The rows that the researcher does not read."""

    gpu_uuid: Annotated[str | None, GpuForm, _COMPOSE | _SERVICES] = None
    """The GPU, as `nvidia-smi -L` names it: GPU-... or MIG-... Default: the first. Set it on a machine with several
    GPUs."""
    torch_build: Annotated[str | None, one_of(["cu126", "cu128", "cu129"]), _COMPOSE | _SERVICES] = None
    """Build of torch in the trainer's image, for a driver older than 580: cu126, cu128 or cu129, which need driver 525.
    cu126 is for compute capability 5.0 to 9.0. Set TORCH_INDEX, too. Default: the usual build."""
    torch_index: Annotated[str | None, AddressForm, _COMPOSE] = None
    """Address of the package index that has TORCH_BUILD. Default: only the usual index is asked."""
    subject_packages: Annotated[str | None, PackagesForm, _COMPOSE] = None
    """Packages that the scripts in SUBJECT_DIR import and the trainer's image lacks, as pip names them, separated by
    spaces. Default: none."""
    subject_cache: Annotated[Path | None, SamePathForm, _COMPOSE | _TRAINER] = None
    """Folder of the downloads that the prepare.py in SUBJECT_DIR reads, such as your ~/.cache/autoresearch: /... with
    the whole path. Default: none, so prepare.py reads only its repository."""
    kernels_cache: Annotated[Path | None, SamePathForm, _COMPOSE | _TRAINER] = None
    """Folder that trials read at the same path: a hub's cache with the kernels that the train.py in SUBJECT_DIR loads,
    such as your ~/.cache/huggingface/hub, or data that overnight.toml names: /... with the whole path. Default:
    none."""
    researcher_user: Annotated[str, UserForm, _COMPOSE | _SERVICES, Shipped("1000:1000")] = "1000:1000"
    """User and group of the researcher's process, as the numbers uid:gid, never 0. Set it to the owner of SUBJECT_DIR:
    `id -u` and `id -g` print your own numbers."""
    compose_profiles: Annotated[str, one_of(["${LLM}"]), _COMPOSE, Shipped("${LLM}")] = "ollama"
    """The optional containers to start. The value follows from LLM, so edit LLM and not this line."""
    page_port: Annotated[Port | None, _COMPOSE] = None
    """Port of the page of the run, on this machine's loopback interface. Default: 8642. 0 takes a free one, which
    `docker compose port dashboard 8642` prints."""
    overnight_state: Annotated[Path | None, _SERVICES, Source.ENVIRONMENT] = None
    """Folder of the run in local mode. Default: in the user's state folder."""
    heartbeat_file: Annotated[Path | None, _SERVICES, Source.STARTER] = None
    """File whose age is the health of the researcher's container."""
    pull_file: Annotated[Path | None, _SERVICES, Source.STARTER] = None
    """File with the state of the download of the LLM's model."""
    page_token_file: Annotated[Path | None, _SERVICES, Source.STARTER] = None
    """File with the token for requests from the page."""


class Settings(BaseSettings):
    """The rows that the researcher reads."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    redis_url: Annotated[str, _RESEARCHER | _TRAINER | _SERVICES, Source.STARTER]
    """Address of Redis."""
    redis_password_file: Annotated[Path | None, _RESEARCHER | _TRAINER | _SERVICES, Source.STARTER] = None
    """File with the password of Redis."""
    journal_dir: Annotated[Path, _RESEARCHER, Source.STARTER]
    """Folder of the journal."""
    user_repository: Annotated[Path | None, _RESEARCHER | _SERVICES, Source.STARTER] = None
    """Your own git repository: a run begins at its HEAD and pushes to it, and leaves its files as they are."""
    data_dir: Annotated[Path, _RESEARCHER, Source.STARTER]
    """Folder of the prepared text."""
    own_constants: Annotated[dict[str, int] | None, _RESEARCHER, Source.STARTER] = None
    """Constants of an adopted repository's prepare.py, as JSON."""
    own_task: Annotated[dict[str, Any] | None, _RESEARCHER, Source.STARTER] = None
    """The task of a repository with an overnight.toml, as JSON."""
    own_script: Annotated[str, _RESEARCHER, Source.STARTER] = "train.py"
    """Name of an adopted repository's train.py."""

    subject_dir: Annotated[Path, FolderForm, _RESEARCHER | _SERVICES | _COMPOSE]
    """Folder of your own git repository with train.py and prepare.py, or with overnight.toml: /..., ./..., ../... or
    ~/... Default: the built-in subject, in a volume."""
    llm: Annotated[_Backend, _RESEARCHER | _SERVICES | _COMPOSE, Shipped(DEFAULT_BACKEND)] = DEFAULT_BACKEND
    """The source of the LLM: ollama (a container, or at OLLAMA_HOST), none (the optimiser works alone), or openai (the
    endpoint at OPENAI_BASE_URL)."""
    experiments: Annotated[Count | None, _RESEARCHER | _COMPOSE] = None
    """End the run after this many measured experiments. Default: no limit, the run continues until you stop it."""
    hours: Annotated[Limit | None, _RESEARCHER | _COMPOSE] = None
    """End the run this many hours after its first start, the final confirmation included. Default: no limit. The limit
    that is reached first ends the run."""
    until: Annotated[Moment | None, _RESEARCHER | _COMPOSE] = None
    """End the run at this date and time, the final confirmation included. Default: no limit. Without a zone the time
    is that of the container, often UTC; `scripts/up --until 07:00` takes the time of your machine."""
    max_cost: Annotated[Limit | None, _RESEARCHER | _COMPOSE] = None
    """End the run at this cost, the final confirmation included, in the currency of PRICE_PER_HOUR, which must be set,
    too. Default: no limit."""
    openai_api_key_file: Annotated[Path | None, KeyFileForm, _RESEARCHER | _SERVICES | _COMPOSE] = None
    """With LLM=openai: file with the endpoint's key, readable by RESEARCHER_USER: /..., ./..., ../... or ~/... Default:
    no key."""
    escalate_base_url: Annotated[_Address | None, _RESEARCHER | _COMPOSE] = None
    """Base URL of a stronger, paid LLM behind an OpenAI-compatible endpoint, asked once on each plateau. Default: none.
    It needs ESCALATE_MODEL, both prices and ESCALATE_MAX_COST, and gives the researcher's container a network with
    internet access."""
    escalate_api_key_file: Annotated[Path | None, KeyFileForm, _RESEARCHER | _COMPOSE] = None
    """File with the key of the endpoint at ESCALATE_BASE_URL, readable by RESEARCHER_USER: /..., ./..., ../... or
    ~/... Default: no key."""

    profile: Annotated[str, one_of(["auto", *PROFILES]), _RESEARCHER | _TRAINER | _SERVICES, Shipped("auto")] = "cpu"
    """Trial set-up: auto (by the GPU's memory), 12gb, 16gb, 24gb, 48gb, 80gb, fork (the local-LLM reference) or cpu."""
    budget: Annotated[Seconds | None, _RESEARCHER | _SERVICES] = None
    """Seconds of training in a trial. Default: the profile's, 300 on a GPU. Scores with different budgets do not
    compare."""
    proposer: Annotated[Mix, _RESEARCHER | _SERVICES, Shipped("hybrid")] = Mix.HYBRID
    """The source of proposals: hybrid (LLM and optimiser, by their shares), optimizer, llm, or random (uniform draws,
    for comparison)."""
    edit_share: Annotated[Share, _RESEARCHER] = USUAL_SHARES[ProposerName.LLM]
    """The share of a hybrid run's experiments in which the LLM edits train.py, from 0 to 1. Default: 0.25."""
    advice_share: Annotated[Share, _RESEARCHER] = USUAL_SHARES[ProposerName.ADVISER]
    """The share of a hybrid run's other experiments in which the LLM advises the optimiser, from 0 to 1. Default:
    0.3."""
    crash_reset: Annotated[CrashReset, _RESEARCHER] = CrashReset.CONFIRMED
    """The reaction to three failures in a row: confirmed (measure the incumbent again; if it fails too, return to the
    last confirmed version, and if that fails, to the baseline) or baseline (return to the baseline at once). Default:
    confirmed."""
    claim_hours: Annotated[Hours, _RESEARCHER] = CLAIM_HOURS
    """Hours of trials after which the run confirms the incumbent, unless five keeps made it do so before. Default: 4.
    Lower it to have confirmations earlier; each costs six trials or more."""
    model: Annotated[str | None, OllamaModelForm, _RESEARCHER | _SERVICES, Shipped("qwen3.5:9b")] = None
    """The LLM's model, as Ollama names it. A larger model needs a larger LLM_RESERVE_MIB."""
    num_ctx: Annotated[ContextTokens | None, _RESEARCHER | _SERVICES] = None
    """The LLM's context in tokens, at least 2048. Default: by profile. Lower it where the model does not fit."""
    num_predict: Annotated[AnswerTokens | None, _RESEARCHER] = None
    """The longest answer of the LLM in tokens, at least 256. Default: a quarter of NUM_CTX. The LLM is asked to rewrite
    all of train.py only if that fits."""
    llm_deadline_s: Annotated[Seconds, _RESEARCHER] = 600
    """Seconds that an answer of the LLM may take from its first word on. Default: 600. Raise it on a slow machine: half
    of it is the longest silence before that word, and a server that shows that it reads may do so six times as long."""
    think: Annotated[Think, _RESEARCHER] = Think.OFF
    """How much an LLM that can reason does so before its answer: off, on, low, medium or high. Default: off. Reasoning
    takes time and tokens of the answer, and may improve the ideas."""
    trainer_cap_mib: Annotated[Mib | None, _RESEARCHER | _TRAINER | _SERVICES] = None
    """Largest GPU memory of a candidate in MiB. Default: by profile. scripts/doctor adds LLM_RESERVE_MIB and refuses a
    sum that does not fit the GPU."""
    llm_reserve_mib: Annotated[Mib | None, _RESEARCHER | _SERVICES] = None
    """GPU memory reserved for the LLM in MiB; the researcher checks it after loading. Default: by profile. Raise it for
    a larger MODEL."""
    openai_base_url: Annotated[_Address | None, _RESEARCHER | _SERVICES] = None
    """With LLM=openai: base URL of an OpenAI-compatible endpoint. MODEL and NUM_CTX (default: 32768) then describe its
    model."""
    openai_price_in: Annotated[Price | None, _RESEARCHER] = None
    """Price of a million prompt tokens at that endpoint, in any currency. Default: costs are not counted."""
    openai_price_out: Annotated[Price | None, _RESEARCHER] = None
    """Price of a million answer tokens at that endpoint, in the same currency."""
    price_per_hour: Annotated[Price | None, _RESEARCHER] = None
    """Price of an hour of this machine, in any currency, for the summary and for MAX_COST. It counts from the first
    start of the run, also in pauses."""
    escalate_model: Annotated[str | None, EndpointModelForm, _RESEARCHER] = None
    """Model of the stronger LLM, as its endpoint names it."""
    escalate_price_in: Annotated[Limit | None, _RESEARCHER] = None
    """Price of a million prompt tokens of the stronger LLM, in any currency."""
    escalate_price_out: Annotated[Limit | None, _RESEARCHER] = None
    """Price of a million answer tokens of the stronger LLM, in the same currency."""
    escalate_max_cost: Annotated[Limit | None, _RESEARCHER] = None
    """Largest cost of the stronger LLM in the whole run, in that currency. When it is used up, raise it to continue."""

    rule: Annotated[Rule, _RESEARCHER, Source.ENVIRONMENT] = Rule.WALK
    """The decision rule: walk, or greedy for comparison."""
    tag: Annotated[_Tag | None, _RESEARCHER, Source.ENVIRONMENT] = None
    """Name of the run's branch: overnight/TAG. Default: the day."""
    seed: Annotated[int | None, _RESEARCHER, Source.ENVIRONMENT] = None
    """The number from which the seeds of all trials follow. Default: drawn at random and kept secret."""
    ollama_host: Annotated[_Server, _RESEARCHER | _SERVICES, Source.ENVIRONMENT] = "http://127.0.0.1:11434"
    """Address of Ollama."""
    backup: Annotated[_Place | None, PlaceForm, _RESEARCHER | _SERVICES, Source.ENVIRONMENT] = None
    """Write a backup of the run there after every decision: to a folder, or to rclone:REMOTE:PATH. Default: none."""
    price_per_mtoken: Annotated[Price | None, _RESEARCHER, Source.ENVIRONMENT] = None
    """Price of a million tokens of a local LLM, in any currency."""

    @field_validator("openai_api_key_file", "escalate_api_key_file")
    @classmethod
    def _can_be_read(cls, file: Path | None) -> Path | None:
        if file is not None:
            read_key(file)
        return file

    @model_validator(mode="after")
    def _agree(self) -> Settings:
        held = {name.upper(): value for name, value in self if value is not None}
        if found := tuple(conflicts(held)):
            raise Disagreement(found)
        return self

    def goal(self, began: float) -> Goal:
        """Return the limits of a run that began at `began`, in seconds since the epoch."""
        ends = [] if self.hours is None else [began + self.hours * 3600]
        ends += [] if self.until is None else [self.until.timestamp()]
        return Goal(self.experiments, min(ends, default=None), self.max_cost)

    def prices(self) -> Prices:
        """Return the prices of this machine and of a local LLM's tokens."""
        return Prices(self.price_per_hour, self.price_per_mtoken)

    @property
    def backend(self) -> LlmBackend:
        """The LLM backend that the key LLM names."""
        return backend_named(self.llm)

    def trial_profile(self) -> Profile:
        """Return the profile with the requested budget and memory cap. Raises ProfileError for an unknown name."""
        profile = profile_named(self.profile)
        if self.own_task is not None:
            return profile.of_task(Task.from_json(self.own_task))
        if self.own_constants is not None:
            profile = profile.adopted(self.own_constants)
        if self.budget is not None:
            profile = profile.with_budget(self.budget)
        if self.trainer_cap_mib is not None and profile.caps.vram_mib is not None:
            profile = replace(profile, caps=replace(profile.caps, vram_mib=self.trainer_cap_mib))
        return profile

    def sampler(self) -> Sampler:
        """Return the sampler of the optimiser."""
        return Sampler.RANDOM if self.proposer is Mix.RANDOM else Sampler.TPE

    def shares(self) -> Schedule:
        """Return the LLM's shares in a hybrid run."""
        return {ProposerName.LLM: self.edit_share, ProposerName.ADVISER: self.advice_share}

    def placement(self) -> Placement:
        """Return the LLM's placement: the profile's, with the values that the user has set."""
        placement = placement_for(self.profile)
        return replace(
            placement,
            model=self.model or placement.model,
            num_ctx=self.num_ctx or placement.num_ctx,
            reserve_mib=self.llm_reserve_mib or placement.reserve_mib,
        )

    def llm_options(self, profile: Profile) -> LlmOptions:
        """Return the options for the client of the LLM that takes turns."""
        return LlmOptions(
            model=self.model,
            num_ctx=self.num_ctx,
            num_predict=self.num_predict,
            deadline_s=self.llm_deadline_s,
            think=self.think,
            placement=self.placement(),
            on_gpu=profile.device == "cuda",
            host=self.ollama_host,
            url=self.openai_base_url,
            key_file=self.openai_api_key_file,
        )

    def password(self) -> str | None:
        """Return the password of Redis from its file, or None without a file."""
        return None if self.redis_password_file is None else read_text(self.redis_password_file).strip()

    def secrets(self) -> list[str]:
        """Return all secrets of this process, so that prompts, files and messages can be redacted."""
        files = [file for file in (self.openai_api_key_file, self.escalate_api_key_file) if file is not None]
        secrets = (self.password(), urlsplit(self.redis_url).password, *map(read_key, files))
        return [secret for secret in secrets if secret]


TABLE = {row.key: row for row in rows_of(OtherKeys, Settings, written=Path(__file__).read_text(encoding="utf-8"))}


def researcher_settings(shell: Mapping[str, str]) -> dict[str, str]:
    """Return the settings in `shell` that the researcher reads, and nothing else of the user's environment."""
    return {key: shell[key] for key, row in TABLE.items() if _RESEARCHER in row.readers and key in shell}


def faults(error: ValidationError) -> list[SettingFault]:
    """Return the faults of the environment."""
    found: list[SettingFault] = []
    for each in error.errors():
        between = each.get("ctx", {}).get("error")
        found += (
            between.faults if isinstance(between, Disagreement) else [TABLE[str(each["loc"][0]).upper()].fault_in(each)]
        )
    return found
