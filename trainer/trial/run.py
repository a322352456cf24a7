"""Launches, supervises and scores a candidate, and afterwards its replica if the score may be kept.

Promises: both run in the same sandbox, one after the other, each in a folder that is empty at its start. `supervise`
returns when all processes are dead. Does not cover the outcome of the trial.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TypeVar

from trainer.candidate.protocol import Channel, Layout
from trainer.candidate.runner import RunnerOrders
from trainer.jobs import (
    JUMP_SHARE,
    Clock,
    Kind,
    Outcome,
    Progress,
    TrialSpec,
)
from trainer.jobs.redaction import redaction
from trainer.sandbox import syscalls
from trainer.sandbox.cgroup import OomKills, kernel_oom_kills
from trainer.sandbox.cleanup import clear
from trainer.sandbox.launch import GuardedProcess, Launch
from trainer.sandbox.paths import WorkerConfig
from trainer.sandbox.visible_paths import grants
from trainer.scoring.causality import CausalityFinding, Questions
from trainer.scoring.exchange import Buffers
from trainer.scoring.replica import ReplicaExam
from trainer.scoring.rows import ScoringRows
from trainer.scoring.score import ScorePlan, Scoring
from trainer.trial import compile_cache
from trainer.trial.disk_usage import Holdings, can_be_counted
from trainer.trial.outcome import NO_MODULE, ReplicaEnded, Termination, replica_fault
from trainer.trial.supervise import Examination, Supervisor
from trainer.trial.training_time import Grace

_GUARDIAN_GRACE_S = 10.0
Exam = TypeVar("Exam", bound=Examination)
QUESTIONS, MORE_QUESTIONS = 512, 2048


@dataclass(frozen=True)
class Supervised:
    """The observations of a candidate and of its replica, if there was one.

    `stop` is the reason why the supervisor ended either of them, or why the replica refutes the score.
    """

    supervisor: Supervisor
    scoring: Scoring
    replica: CausalityFinding | None
    stop: Termination | None
    oom_kills: OomKills


@dataclass(frozen=True)
class TrialRun:
    """The inputs that a candidate and its replica share.

    The replica gets a copy of the weights, in a file that the candidate never had open.
    """

    spec: TrialSpec
    config: WorkerConfig
    rows: ScoringRows
    weights_fd: int
    preempted: Callable[[], bool]


def supervise(trial: TrialRun, report: Callable[[Progress], None]) -> Supervised:
    """Run the candidate to its end, and then its replica if the score needs one. Only the candidate's progress is
    reported.
    """
    spec, oom_before = trial.spec, kernel_oom_kills()
    plan = ScorePlan(
        val=spec.budget.eval_rows,
        heldout=spec.budget.heldout_rows,
        unseen=spec.budget.unseen_rows,
        weights_fd=trial.weights_fd,
        closer=lambda bpb: rows_to_recheck(spec, bpb),
    )
    supervisor, scoring = _supervised(
        trial, report, None, lambda channel, buffers: Scoring(channel, buffers, trial.rows, plan)
    )
    stop, finding = supervisor.stop, None
    ended_well = stop is None and supervisor.ending is not None and supervisor.ending.exit_code == 0
    if ended_well:
        compile_cache.keep(spec, trial.config)
    if ended_well and scoring.asked:
        clear(trial.config.folder, trial.config.user)
        stop, finding = _replicate(trial, scoring.saved, scoring.causality.questions(scoring.asked))
    oom_now = kernel_oom_kills()
    return Supervised(supervisor, scoring, finding, stop, replace(oom_now, count=oom_now.count - oom_before.count))


def _replicate(
    trial: TrialRun, saved: str | None, asked: Questions
) -> tuple[Termination | None, CausalityFinding | None]:
    if not saved:
        return Termination(Outcome.UNSCORABLE, NO_MODULE), None
    weights_fd = syscalls.frozen_copy(trial.weights_fd, "weights")
    try:
        supervisor, exam = _supervised(
            replace(trial, weights_fd=weights_fd),
            lambda _: None,
            saved,
            lambda channel, buffers: ReplicaExam(channel, buffers, asked),
        )
    finally:
        os.close(weights_fd)
    ended = ReplicaEnded(supervisor.stop, supervisor.ending, supervisor.peaks.away_s, supervisor.sink.last_lines(1))
    return replica_fault(exam.finding, ended), exam.finding


def _supervised(
    trial: TrialRun,
    report: Callable[[Progress], None],
    replica_of: str | None,
    examination: Callable[[Channel, Buffers], Exam],
) -> tuple[Supervisor, Exam]:
    """Run the candidate or its replica to its end under a supervisor."""
    spec, config = trial.spec, trial.config
    buffers = Buffers(Layout.fitting(trial.rows.context, trial.rows.vocab, spec.budget.eval_rows))
    ours, theirs = Channel.pair()
    ours.setblocking(False)
    exam = examination(Channel(ours), buffers)
    try:
        guarded = GuardedProcess.start(_launch(trial, buffers, theirs.fileno(), replica_of))
        theirs.close()
        try:
            holdings = Holdings(trial.config.folder) if can_be_counted(config.work) else None
            redact = redaction(config.secrets)
            supervisor = Supervisor(spec, guarded, Channel(ours), exam, report, trial.preempted, holdings, redact)
            supervisor.run()
        finally:
            guarded.close()
    finally:
        theirs.close()
        ours.close()
        exam.close()
        buffers.close()
    return supervisor, exam


def rows_to_recheck(spec: TrialSpec, bpb: float) -> int | None:
    """Return the number of questions to a replica about a score, or None for a score that cannot be kept or confirmed.

    The number depends on the score, which the candidate does not know, and on nothing that the candidate can see. Only
    repeats of the baseline, which is the user's own code, are scored on all texts without questions.
    """
    to_beat = spec.score_to_beat
    if spec.kind is Kind.BASELINE and not spec.is_first_of_its_code:
        return 0
    if to_beat is None:
        return QUESTIONS
    if bpb >= to_beat:
        return None
    return MORE_QUESTIONS if to_beat - bpb > JUMP_SHARE * abs(to_beat) else QUESTIONS


def _launch(trial: TrialRun, buffers: Buffers, control_fd: int, replica_of: str | None) -> Launch:
    spec, config, layout = trial.spec, trial.config, buffers.layout
    budget = spec.budget
    orders = RunnerOrders(
        control_fd=control_fd,
        inputs_fd=buffers.inputs_fd,
        logits_fd=buffers.logits_fd,
        weights_fd=trial.weights_fd,
        replica_of=replica_of,
        seed=spec.seed,
        clock=budget.clock.value,
        amount=budget.amount,
        warmup_steps=budget.warmup_steps,
        warmup_cap_s=budget.warmup_cap_s,
        free_setup=Grace.of(budget).setup,
        setup_clock=budget.clock_of_setup.value,
        overrun=Grace.of(budget).overrun,
        vram_mib=vram_mib(spec, config),
        rows=layout.rows,
        context=layout.context,
        vocab=layout.vocab,
    )
    return Launch(
        folder=trial.config.folder.absolute(),
        files=spec.files,
        orders=json.dumps(asdict(orders)),
        env={
            "OVERNIGHT_DATA": str(config.data.absolute()),
            "OVERNIGHT_SEED": str(spec.seed),
            "OMP_NUM_THREADS": str(_threads(budget.clock)),
            "TORCHINDUCTOR_COMPILE_THREADS": str(compile_cache.threads(budget.clock)),
            "PYTHONHASHSEED": str(spec.seed % 2**32),
            **trial.rows.access.environment,
        },
        keep_fds=(control_fd, buffers.inputs_fd, buffers.logits_fd, trial.weights_fd),
        wall_limit_s=budget.wall_limit_s + _GUARDIAN_GRACE_S,
        file_mib=spec.caps.file_mib,
        processes=spec.caps.processes,
        grants=[*grants(config.data), *trial.rows.access.grants],
        user=config.user,
        caches=compile_cache.found(spec, config, replica=replica_of is not None),
        held_fds=config.held_fds,
    )


def vram_mib(spec: TrialSpec, config: WorkerConfig) -> int | None:
    """Return the smaller cap on GPU memory in MiB, of the trial's and the trainer's, or None without a cap."""
    return min((cap for cap in (spec.caps.vram_mib, config.vram_cap_mib) if cap is not None), default=None)


def _threads(clock: Clock) -> int:
    """Return all cores for the wall clock, otherwise 1, so that a processor second buys the same work everywhere."""
    return os.cpu_count() or 1 if clock is Clock.WALL else 1
