"""Builds the collaborators of a run from the settings: LLM clients, proposers, queues, and the ticks during a wait."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from researcher.config.settings import Settings
from researcher.files import write_whole
from researcher.journal.records import Run
from researcher.journal.writer import Journal
from researcher.llm.leased import GpuServer, LeasedClient, LeasedPolicy
from researcher.llm.openai import OpenAiClient, OpenAiSettings
from researcher.loop.backups import Backups
from researcher.loop.clock import RunClock
from researcher.loop.context import PauseBackoffs, RunContext
from researcher.loop.request_handler import RequestHandler
from researcher.loop.resume import Switch
from researcher.loop.status import RESEARCHER, StatusPublisher
from researcher.optimizer.optimizer import Optimizer
from researcher.proposers.escalation import CallLog, MeteredClient, TokenPrice
from researcher.proposers.llm_conversation import Conversation
from researcher.proposers.llm_proposer import Vetting
from researcher.proposers.prefetch import FixedPolicy, GpuSharingPolicy, Prefetch
from researcher.proposers.proposers import Proposers
from researcher.proposers.stronger_llm import Stronger
from researcher.queues.dry_runs import DryRuns
from researcher.queues.requests import RequestJob, RequestWorker
from researcher.queues.trials import TrialQueue
from researcher.report.results_table import ResultsTable
from researcher.report.stall_alarm import alarm
from researcher.report.view import now
from researcher.repository.earlier_runs import RESULTS
from researcher.repository.repository import Workspace
from researcher.repository.worktree import reports_folder
from trainer.jobs import REQUESTS, Profile, RedisClient, unknown_jobs_text

logger = logging.getLogger("researcher")

REST_S = 0.2
STRONGER_ANSWER_TOKENS = 8192  # such models reason before they answer, and bill the reasoning
STRONGER_CONTEXT_TOKENS = 65536


@dataclass(frozen=True)
class Opened:
    """The resources that a start of the researcher has opened, and the run that it continues."""

    settings: Settings
    profile: Profile
    run: Run
    journal: Journal
    workspace: Workspace
    bus: RedisClient
    switch: Switch
    clock: RunClock
    backups: Backups | None = None


class Ticker:
    """Serves requests, repeats the status and notices a stop while the researcher waits."""

    def __init__(self, opened: Opened, publisher: StatusPublisher, why_no_llm: Callable[[], str | None]) -> None:
        handler = RequestHandler(opened.journal, opened.switch.turn, clock=opened.clock, why_no_llm=why_no_llm)
        self._requests = RequestWorker.open(opened.bus, handler.receive)
        self._opened = opened
        self._publisher = publisher
        self._jumps = opened.clock.jumps

    def tick(self) -> None:
        """Serve requests and the status once. Raises what the switch raises on a stop."""
        self._note_a_jump()
        self._publisher.repeat()
        refused = RequestJob.refused
        self._requests.serve()
        if RequestJob.refused > refused:
            self._publisher.publish_status("requests", unknown_jobs_text(RequestJob.refused, REQUESTS))
        self._opened.switch.raise_if_stopped()

    def rest(self) -> None:
        """Tick once and sleep briefly."""
        self.tick()
        time.sleep(REST_S)

    def _note_a_jump(self) -> None:
        """Record a new start of the run after a clock jump; otherwise the stall alarm would report a stall."""
        at = self._opened.clock()
        if self._opened.clock.jumps > self._jumps:
            self._jumps = self._opened.clock.jumps
            self._opened.journal.begin(self._opened.run, at)


def build_run_context(opened: Opened, back_off: PauseBackoffs) -> RunContext:
    """Build everything that the loop works with. The parts publish their status in Redis from now on."""
    settings, journal, workspace = opened.settings, opened.journal, opened.workspace
    why_no_backup = str if opened.backups is None else opened.backups.inspect
    publisher = StatusPublisher(opened.bus, lambda: _stall_check(opened), workspace.inspect, why_no_backup)
    proposers = _proposers(opened, publisher)
    ticker, table = Ticker(opened, publisher, proposers.why_no_llm), ResultsTable(journal)
    results = reports_folder(settings.subject_dir, settings.journal_dir) / RESULTS
    return RunContext(
        journal=journal,
        workspace=workspace,
        trials=TrialQueue(opened.bus, opened.clock.leases_count),
        proposers=proposers,
        profile=opened.profile,
        rule=settings.rule,
        crash_reset=settings.crash_reset,
        claim_hours=settings.claim_hours,
        goal=opened.run.goal,
        project=lambda: _project(opened, results, table),
        tick=ticker.tick,
        rest=ticker.rest,
        publish_status=lambda message: publisher.publish_status(RESEARCHER, message),
        clock=opened.clock,
        back_off=back_off,
    )


def _project(opened: Opened, results: Path, table: ResultsTable) -> None:
    """Write what follows from the journal: the table of results, and a backup beside the loop."""
    if opened.backups is not None:
        opened.backups.request()
    write_whole(results, table.text().encode())


def _stall_check(opened: Opened) -> str | None:
    """Return the alarm of a stalled run as text, or None."""
    journal, run = opened.journal, opened.journal.run()
    assert run is not None, "a run was found or started before anything is built"
    return alarm(run, journal.trials(), opened.profile.budget, now(journal, opened.bus), opened.clock())


def _proposers(opened: Opened, publisher: StatusPublisher) -> Proposers:
    settings, profile, run, workspace = opened.settings, opened.profile, opened.run, opened.workspace
    if not settings.backend.asks_llm:
        alone = f"as LLM={settings.llm} asks; the optimiser proposes alone"
        logger.info("no LLM, %s", alone)
        publisher.publish_status("llm", f"none, {alone}")
    client = leased_client(settings, profile, opened.bus)
    files = cache(lambda: workspace.files(run.base_commit))  # all candidates share these files but train.py
    dry_runs = DryRuns(opened.bus, profile, files, lambda message: publisher.publish_status("dry_runs", message))
    return Proposers(
        mix=settings.proposer,
        vetting=Vetting(profile, workspace.program, dry_runs),
        optimizer=Optimizer(seed=run.seed, context=profile.context, sampler=settings.sampler()),
        llm=first_llm(settings, profile, client),
        stronger=stronger_llm(settings, opened.journal),
        drafting=Prefetch(opened.journal.folder, gpu_sharing_policy(settings, profile, client)),
        shares=settings.shares(),
        folder=settings.journal_dir / "experiments",
        publish_status=lambda message: publisher.publish_status("llm", message),
    )


def leased_client(settings: Settings, profile: Profile, bus: RedisClient) -> LeasedClient | None:
    """Build the client of an LLM that shares the GPU of the trials, or return None where it does not."""
    client_for = settings.backend.client
    if profile.device == "cpu" or not settings.proposer.asks_llm or client_for is None:
        return None
    client = client_for(settings.llm_options(profile))
    if not isinstance(client, GpuServer):
        return None
    return LeasedClient(client, bus, beside=settings.placement().resident)


def first_llm(settings: Settings, profile: Profile, leased: LeasedClient | None = None) -> Conversation | None:
    """Build the LLM that takes turns with the optimiser, or return None if the settings ask for none.

    `leased` is its client if it shares the GPU of the trials.
    """
    client_for = settings.backend.client
    if not settings.proposer.asks_llm or client_for is None:
        return None
    price = _price(settings.openai_price_in, settings.openai_price_out) if settings.backend.is_endpoint else None
    client = leased or client_for(settings.llm_options(profile))
    return Conversation(client, secrets=settings.secrets(), price=price)


def stronger_llm(settings: Settings, call_log: CallLog) -> Stronger | None:
    """Build the paid LLM for plateaus, or return None if the settings name none."""
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
    metered = MeteredClient(client, price, settings.escalate_max_cost, call_log)
    return Stronger(Conversation(metered, secrets=settings.secrets(), price=price), metered)


def gpu_sharing_policy(settings: Settings, profile: Profile, leased: LeasedClient | None) -> GpuSharingPolicy:
    """Return the policy that says whether the LLM may run beside a trial.

    A remote LLM uses nothing of a trial, and an LLM on the CPU nothing that a budget of processor seconds counts. On a
    shared GPU a trial would train fewer steps, so there the LLM is asked between trials, and while one is scored.
    """
    if leased is not None:
        return LeasedPolicy(leased)
    return FixedPolicy(profile.device == "cpu" or not settings.backend.holds_gpu)


def _price(sent: float | None, answered: float | None) -> TokenPrice | None:
    return None if sent is None or answered is None else TokenPrice(sent, answered)
