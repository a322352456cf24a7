"""A run of forked processes: the researcher as it is, and `python -m trainer` with nothing but the training scripted.

Both are forked from the test, so that a start costs no imports and hundreds of deaths fit into minutes. RQ, its worker
and the fork that it makes for each trial, the server, git and SQLite are real.
"""

from __future__ import annotations

import faulthandler
import logging
import multiprocessing
import os
import re
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkProcess
from pathlib import Path

import researcher.__main__ as researcher
import trainer.__main__ as trainer
from researcher import wiring
from researcher.backoff import Backoff
from researcher.errors import Rejected
from researcher.loop import context
from researcher.optimizer.optimizer import Vetted
from researcher.source.proposal import Proposal, ProposerName, SetKnobs
from services.redis.server import RedisServer
from tests.doubles.scripted_trainer import answer
from tests.fixtures.scripted_run import ScriptedRun
from tests.scenarios.crash import kills
from tests.scenarios.crash.kills import Kill
from trainer.jobs import TrialResult, TrialSpec
from trainer.sandbox import syscalls
from trainer.sandbox.paths import WorkerConfig
from trainer.sandbox.selftest import SandboxCheck
from trainer.trial import result_store, trial

FORK = multiprocessing.get_context("fork")
DEADLINE_S = 60.0
WORSE, BETTER = 0.01, -0.03


class ForkedRun(ScriptedRun):
    """Researchers one after another, and a trainer that is started again when it died."""

    def __init__(self, folder: Path, server: RedisServer) -> None:
        super().__init__(folder, server)
        self.folder = folder
        self.user: Path | None = None
        self.trainers = 0
        self._began_at = 0
        self._ended_with: int | None = None
        self._forked: list[ForkProcess] = []
        self._trainer: ForkProcess | None = None
        self._trainers_kill: Kill | None = None

    def lend_its_repository(self) -> None:
        """The repository becomes a user's, and the run makes its own."""
        self.user = self.subject.with_name("theirs")
        self.subject.rename(self.user)

    def prepare_trainer(self, kill: Kill) -> None:
        """The next trainers die so, each time that the kill is armed."""
        self._end_trainer()
        self._trainers_kill = kill

    def run_researcher(
        self, experiments: int, kill: Kill | None = None, meanwhile: Iterator[None] | None = None, **more: object
    ) -> int | None:
        """One researcher from its start to its end; the exit code, which is negative for a signal.

        `meanwhile` is taken one step further every some hundredths of a second; `more` are settings.
        """
        settings = {
            "REDIS_URL": self.server.url,
            "REDIS_PASSWORD_FILE": self.password_file,
            "SUBJECT_DIR": self.subject,
            "USER_REPOSITORY": self.user or "",
            "JOURNAL_DIR": self.journal,
            "DATA_DIR": self.folder / "data",
            "PROPOSER": "optimizer",
            "LLM": "none",
            "TAG": "night",
            "SEED": 7,
            "EXPERIMENTS": experiments,
            **more,
        }
        self._began_at, self._ended_with = len(self.output()), None
        process = self._fork(be_researcher, {name: str(value) for name, value in settings.items()}, kill)
        give_up = time.monotonic() + DEADLINE_S
        while process.exitcode is None:
            assert time.monotonic() < give_up, f"still at work after {DEADLINE_S} s\n{self.last_words()}"
            self._keep_trainer()
            next(meanwhile or iter(()), None)
            process.join(0.02)
        self._ended_with = process.exitcode
        return process.exitcode

    def last_words(self) -> str:
        """How the last researcher ended, and all that was said since it began: trainers say much, also after it."""
        return f"the researcher's exit code is {self._ended_with}; since it began:\n{self.output()[self._began_at :]}"

    def row(self, question: str) -> tuple[object, ...] | None:
        """What the journal answers."""
        database = sqlite3.connect(f"file:{self.journal / 'journal.db'}?mode=ro", uri=True)
        try:
            found: tuple[object, ...] | None = database.execute(question).fetchone()
            return found
        finally:
            database.close()

    def end(self) -> None:
        """Kill what is left."""
        for process in self._forked:
            process.kill()
            process.join(10)
        super().end()

    def _end_trainer(self) -> None:
        if self._trainer is not None:
            self._trainer.terminate()
            self._trainer.join(10)
            assert self._trainer.exitcode is not None, self.last_words()
            self._trainer = None

    def _keep_trainer(self) -> None:
        if self._trainer is not None and self._trainer.is_alive():
            return
        arguments = ["--redis", self.server.url, "--password-file", str(self.password_file), "--single-host"]
        arguments += [f"--{name}={self.folder / name}" for name in ("data", "trials", "work")]
        # A pid that was used again would look alive to the next; a name would not be new.
        self.trainers += 1
        self._trainer = self._fork(be_trainer, [*arguments, f"--name=trainer-{self.trainers}"], self._trainers_kill)

    def _fork(self, target: Callable[..., None], wish: object, kill: Kill | None) -> ForkProcess:
        process = FORK.Process(target=target, args=(wish, kill, self.folder / "output.log"))
        process.start()
        self._forked.append(process)
        return process


def be_researcher(settings: dict[str, str], kill: Kill | None, log: Path) -> None:
    """`python -m researcher`, with proposals by the script and no rest after a fault."""
    _begin(kill, log)
    os.environ.update(settings)
    wiring.Optimizer = lambda **_: ScriptedOptimizer()
    context.BACKOFFS = dict.fromkeys(context.BACKOFFS, Backoff(0.1, 60))
    sys.exit(researcher.main())


def be_trainer(arguments: list[str], kill: Kill | None, log: Path) -> None:
    """`python -m trainer`, with trials by the script."""
    trial.run_trial = scripted_trial
    # nothing of a candidate's is run
    trainer.check_sandbox = lambda *_: SandboxCheck(layers=(), open=(), gpu_fault=None)
    _begin(kill, log)
    sys.exit(trainer.main(arguments))


def scripted_trial(spec: TrialSpec, config: WorkerConfig, *_: object) -> TrialResult:
    """As the real one does: a known result is given again, a new one is on disk before anybody is told."""
    known = result_store.stored(config.trials, spec)
    return known or result_store.store(config.trials, TrialResult.from_json(answer(spec.to_json())))


class ScriptedOptimizer:
    """A worse move from each incumbent, then a better one; like the real one it knows only what the journal knows."""

    name = ProposerName.OPTIMIZER

    def learn(self, *_: object) -> None:
        """It needs nothing."""

    def propose(self, source: str, vet: Callable[[Proposal], Vetted]) -> Vetted:
        """The first of the two that was not tried."""
        level = float(re.search(r"^LEVEL = ([\d.]+)", source, re.MULTILINE).group(1))
        for by in (WORSE, BETTER):
            move = SetKnobs({"LEVEL": round(level + by, 3)})
            proposal = Proposal(ProposerName.OPTIMIZER, f"LEVEL {by:+}", "as the script has it", (move,))
            try:
                return vet(proposal)
            except Rejected:
                continue
        raise Rejected("both were tried")


def _begin(kill: Kill | None, log: Path) -> None:
    """What a new process would not have from the test, and how it dies."""
    syscalls.die_with_parent(signal.SIGKILL, os.getppid())
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    logging.root.handlers.clear()
    sys.stdout = sys.stderr = log.open("a", buffering=1)
    for descriptor in (1, 2):
        os.dup2(sys.stdout.fileno(), descriptor)
    faulthandler.enable(sys.stderr)
    if kill is not None:
        kills.prepare(kill)
