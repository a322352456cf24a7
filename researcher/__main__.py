"""The researcher as a process: `python -m researcher`, with settings from the environment and one log line per event.

The exit code is 0 if the goal is reached or a stop was requested, and 2 if the researcher refuses to start. Any other
code is a fault; a restart continues the run. An outage (a full disk, a missing Redis) does not end the process.
"""

from __future__ import annotations

import gc
import logging
import random
import secrets
import signal
import sys
import time
from contextlib import ExitStack, closing
from types import FrameType

from pydantic import ValidationError

from researcher.config.data_digests import DataDigests, read_digests
from researcher.config.settings import Settings, faults
from researcher.errors import JournalError, ResearcherError
from researcher.journal.records import Run
from researcher.journal.writer import Journal
from researcher.loop.backups import Backups
from researcher.loop.clock import RunClock
from researcher.loop.context import PauseBackoffs
from researcher.loop.loop import run_until_goal
from researcher.loop.resume import run_through_outages
from researcher.repository.backup import write_backup
from researcher.repository.backup_place import place_of
from researcher.repository.earlier_runs import first_commit, free_tag, require_no_lost_journal, require_only_state
from researcher.repository.publishing import UserRepository
from researcher.repository.recovery import open_subject
from researcher.repository.repository import EDITABLE, Workspace
from researcher.source.knobs import range_faults
from researcher.source.validation import fingerprint
from researcher.wiring import Opened, build_run_context
from trainer.jobs import Profile, ProfileError, RedisClient, connect
from trainer.jobs.environment import replace_unprintable

logger = logging.getLogger("researcher")

REFUSED = 2
REDIS_TRIES = 4  # about twenty seconds for a command: a server's restart is tolerated, a longer absence is reported


class Stopped(Exception):
    """A signal or a user's request stops the researcher."""


class StopSwitch:
    """Records a stop by SIGTERM, SIGINT or a request.

    A signal raises Stopped at once, even during a long wait for Redis: each step can be repeated, so no step needs to
    finish. A request takes effect between steps, after its answer is stored.
    """

    def __init__(self) -> None:
        self.asked: str | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._interrupt)

    def _interrupt(self, received: int, _frame: FrameType | None) -> None:
        self.asked = signal.Signals(received).name
        raise Stopped(self.asked)

    def turn(self, by: str) -> None:
        """Request a stop."""
        self.asked = by

    def raise_if_stopped(self) -> None:
        """Raise Stopped if a stop was requested."""
        if self.asked is not None:
            raise Stopped(self.asked)


def main() -> int:
    """Run the researcher and return the exit code."""
    replace_unprintable(sys.stdout, sys.stderr)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", stream=sys.stdout)
    logging.getLogger("rq").setLevel(logging.WARNING)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    gc.freeze()  # imported objects stay; scanning them took a quarter of the time of reading a source
    try:
        settings = Settings()
        profile, switch = settings.trial_profile(), StopSwitch()
        run_through_outages(settings, lambda back_off: _run(settings, profile, switch, back_off), switch)
    except Stopped as stop:
        logger.info("stopped by %s; the same command goes on from here", stop)
    except ValidationError as error:
        for fault in faults(error):
            logger.error("%s", fault)
        return REFUSED
    except (ResearcherError, ProfileError) as error:
        logger.error("%s", error)
        return REFUSED
    return 0


def _run(settings: Settings, profile: Profile, switch: StopSwitch, back_off: PauseBackoffs) -> None:
    server = connect(settings.redis_url, password=settings.password(), tries=REDIS_TRIES)
    with (
        closing(Journal(settings.journal_dir)) as journal,
        closing(_open_subject(settings, journal)) as workspace,
        closing(server),
        ExitStack() as at_the_end,
    ):
        clock = RunClock(journal.newest_time())
        run = _find_or_start_run(settings, profile, journal, workspace, clock)
        require_only_state(settings.journal_dir, run, settings.user_repository)
        for name, fault in range_faults(journal.source(run.incumbent or journal.numbered(0).id)).items():
            logger.warning("the optimiser does not move %s: %s", name, fault)
        run = journal.limit(run, settings.goal(run.created_at))
        backups = _backups(settings)
        if backups is not None:
            at_the_end.callback(backups.close)
        run_context = build_run_context(
            Opened(settings, profile, run, journal, workspace, RedisClient(server), switch, clock, backups), back_off
        )
        logger.info("run %s on branch %s, profile %s", run.tag, run.branch, run.profile)
        at_the_end.callback(run_context.proposers.close)
        logger.info("the run has ended: %s", run_until_goal(run_context))
        if backups is not None:
            backups.request()  # the journal holds the end since the last decision


def _backups(settings: Settings) -> Backups | None:
    if settings.backup is None:
        return None
    place = place_of(settings.backup)
    return Backups(lambda: write_backup(settings.journal_dir, settings.subject_dir, place, time.time()))


def _open_subject(settings: Settings, journal: Journal) -> Workspace:
    user = None if settings.user_repository is None else UserRepository(settings.user_repository)
    return open_subject(settings.subject_dir, journal, user, settings.own_script)


def _find_or_start_run(
    settings: Settings, profile: Profile, journal: Journal, workspace: Workspace, clock: RunClock
) -> Run:
    data = read_digests(settings.data_dir)
    run = journal.run()
    if run is None:
        return _start_run(settings, profile, journal, workspace, data, clock())
    if run.profile != profile.name:
        raise JournalError(
            f"run {run.tag} is of profile {run.profile}, not {profile.name}; use another --state for that"
        )
    if run.budget != profile.budget.amount:
        raise JournalError(
            f"trials of run {run.tag} have a budget of {run.budget:g}, not {profile.budget.amount:g}; "
            "use another --state for that"
        )
    if (run.metric, run.degree) != (profile.metric, profile.degree):
        raise JournalError(
            f"run {run.tag} compares {run.metric.name} ({run.metric.explained(run.degree)}), not "
            f"{profile.metric.name} ({profile.metric.explained(profile.degree)}); use another --state for that"
        )
    if not data.are_those_of(run.data_sha256, run.without_unseen_sha256):
        raise JournalError(f"the data in {settings.data_dir} is not what run {run.tag} was measured on; restore it")
    if (run.data_sha256, run.without_unseen_sha256) != (data.whole, data.without_unseen):
        run = journal.name_data(run, data.whole, data.without_unseen)
    journal.price(run, settings.prices())
    return run


def _start_run(
    settings: Settings, profile: Profile, journal: Journal, workspace: Workspace, data: DataDigests, at: float
) -> Run:
    require_no_lost_journal(settings.journal_dir)
    workspace.require_clean()
    base = first_commit(settings.subject_dir)
    workspace.require_portable(base)
    workspace.require_text_program(base)
    source = workspace.files(base)[EDITABLE]
    tag = free_tag(settings.tag, workspace.branches(), time.strftime("%b%d").lower())
    workspace.require_free_names(base, tag)
    return journal.start_run(
        tag=tag,
        profile=profile.name,
        budget=profile.budget.amount,
        branch=f"overnight/{tag}",
        base_commit=base,
        data_sha256=data.whole,
        without_unseen_sha256=data.without_unseen,
        seed=settings.seed if settings.seed is not None else random.SystemRandom().randrange(2**31),
        seed_key=secrets.token_hex(16) if settings.seed is None else str(settings.seed),
        prices=settings.prices(),
        source=source,
        fingerprint=fingerprint(source),
        at=at,
        metric=profile.metric,
        degree=profile.degree,
    )


if __name__ == "__main__":
    raise SystemExit(main())
