"""One trial from spec to result: work folder, guardian, supervision, trusted scoring, result file.

Promises: `run_trial` returns a typed outcome for everything that a candidate can do, leaves no process and no work
folder behind, and writes the result to disk before it returns. The module knows nothing of Redis, RQ or torch.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from trainer.data.task_data import TaskData, read_task_data
from trainer.jobs import (
    Calibration,
    Clock,
    GpuUse,
    Outcome,
    Progress,
    Timing,
    TrialLog,
    TrialResult,
    TrialSpec,
    Trust,
)
from trainer.jobs.result import LOG_TAIL_CHARACTERS
from trainer.sandbox import syscalls
from trainer.sandbox.cleanup import clear
from trainer.sandbox.launch import ExitReport
from trainer.sandbox.paths import WorkerConfig
from trainer.scoring.causality import CausalityFinding
from trainer.scoring.rows import DataFault, OtherPrepare, read_rows
from trainer.scoring.score import EVALUATOR, Score
from trainer.trial import disk_space, gpu, machine, result_store
from trainer.trial.disk_usage import can_be_counted
from trainer.trial.limits import Mark, Timeline
from trainer.trial.outcome import Observation, Termination, classify, printed_agrees
from trainer.trial.run import Supervised, TrialRun, supervise, vram_mib
from trainer.trial.supervise import Supervisor
from trainer.trial.task_trial import pins_fault, run_task

PROBE = "rows asked again of a fresh process"


def run_trial(
    spec: TrialSpec,
    config: WorkerConfig,
    report: Callable[[Progress], None],
    preempted: Callable[[], bool],
    gpu_use: Callable[[], GpuUse | None] = lambda: None,
) -> TrialResult:
    """Run one trial, or return its stored result.

    `report` must not block. `preempted` is called ten times a second, and `gpu_use` once all processes have ended. If
    the data differs from the spec's, the outcome is `lost`: this trainer cannot measure the trial, but another attempt
    elsewhere may.
    """
    known = result_store.stored(config.results, spec)
    if known is not None:
        return known
    clock = _Clock(time.time(), time.monotonic())
    if (obstacle := disk_space.why_not_ready(config.results, config.work) or gpu.why_not_ready(spec.caps)) is not None:
        return _without_run(spec, config, clock, Termination(Outcome.LOST, f"it was not begun: {obstacle}"))
    held = read_task_data(config.data)
    if held is not None:
        return result_store.store(
            config.results, replace(_run_task(spec, held, config, clock, report, preempted), gpu_use=gpu_use())
        )
    try:
        rows = read_rows(config.data, spec.data_sha256)
        launched = spec if rows.stand_in is None else rows.stand_in.into(spec)
    except DataFault as fault:
        return result_store.store(
            config.results, _without_run(spec, config, clock, Termination(Outcome.LOST, str(fault)))
        )
    except OtherPrepare as refusal:
        return result_store.store(
            config.results, _without_run(spec, config, clock, Termination(Outcome.UNSCORABLE, str(refusal)))
        )
    folder = config.folder
    clear(folder, config.user)
    before_s = _calibrate(spec)
    weights_fd = syscalls.growing_memory("weights")
    try:
        seen = supervise(TrialRun(launched, config, rows, weights_fd, preempted), report)
    finally:
        os.close(weights_fd)
        clear(folder, config.user)
    after_s = None if preempted() else _calibrate(spec)
    speed = Calibration(before_s or _finite(seen.supervisor.claims.calibration_s or None), after_s)
    result = replace(_result(spec, config, clock, seen, speed), gpu_use=gpu_use())
    return result_store.store(config.results, result)


def _run_task(
    spec: TrialSpec,
    held: TaskData,
    config: WorkerConfig,
    clock: _Clock,
    report: Callable[[Progress], None],
    preempted: Callable[[], bool],
) -> TrialResult:
    """Run a trial of a user's own task. Another task than the spec's is a fault of this trainer, not of the trial."""
    if held.digest != spec.data_sha256:
        return _without_run(spec, config, clock, Termination(Outcome.LOST, "this trainer has another task"))
    if (fault := pins_fault(spec, held)) is not None:
        return _without_run(spec, config, clock, Termination(Outcome.UNSCORABLE, fault))
    clear(config.folder, config.user)
    try:
        seen = run_task(spec, held, config, report, preempted)
    finally:
        clear(config.folder, config.user)
    supervisor, stop, ending = seen.supervisor, seen.termination, seen.supervisor.ending
    processor_s = max(supervisor.peaks.processor_s, ending.processor_s if ending is not None else 0.0)
    peak_mib = max(supervisor.peaks.rss_mib, ending.peak_rss_mib if ending is not None else 0.0)
    return TrialResult(
        id=spec.id,
        spec_digest=spec.digest,
        outcome=stop.outcome,
        reason=stop.reason,
        disturbed=stop.disturbed,
        started_at=clock.started_at,
        finished_at=time.time(),
        worker=config.worker,
        val_bpb=None if seen.value is None else held.task.metric.score_of(seen.value),
        wall_s=clock.wall_s,
        memory_mib=peak_mib or None,
        timing=Timing(processor_s=processor_s),
        trust=None if seen.value is None else Trust(evaluator=seen.evaluator),
        load=os.getloadavg()[0],
        exit_code=None if ending is None else ending.exit_code,
        layers=_layers(spec, config, ending),
        log=_log(spec, config, supervisor),
    )


def _calibrate(spec: TrialSpec) -> float | None:
    """Return the machine's speed, or None for a budget in wall seconds: there the candidate's process measures it."""
    return None if spec.budget.clock is Clock.WALL else machine.processor_s()


@dataclass(frozen=True)
class _Clock:
    started_at: float
    started_s: float

    @property
    def wall_s(self) -> float:
        return time.monotonic() - self.started_s


def _result(spec: TrialSpec, config: WorkerConfig, clock: _Clock, seen: Supervised, speed: Calibration) -> TrialResult:
    supervisor, scoring = seen.supervisor, seen.scoring
    printed_bpb = supervisor.printed.summary.get("val_bpb")
    bpb = scoring.val.bpb if scoring.val is not None and supervisor.marks.scored is not None else None
    stop = classify(
        Observation(
            stop=seen.stop,
            ending=supervisor.ending,
            asked_for_score=supervisor.marks.ready is not None,
            bpb=bpb,
            printed_bpb=printed_bpb,
            last_lines=tuple(supervisor.sink.last_words(5)),
            kernel_oom_kills=seen.oom_kills.count,
            oom_of_own_group=seen.oom_kills.of_own_group,
            stopped_s=supervisor.peaks.stopped_s,
            away_s=supervisor.peaks.away_s,
            on_wall=spec.budget.clock is Clock.WALL,
            vram_mib=vram_mib(spec, config) if supervisor.claims.memory_mib else None,
            no_room=disk_space.why_not_ready(config.work),
            no_gpu=gpu.why_missing(spec.caps) if bpb is None else None,
        )
    )
    ok = stop.outcome is Outcome.OK
    tokens = supervisor.claims.tokens
    ending = supervisor.ending
    processor_s = max(supervisor.peaks.processor_s, ending.processor_s if ending is not None else 0.0)
    peak_mib = max(supervisor.peaks.rss_mib, ending.peak_rss_mib if ending is not None else 0.0)
    timing = _timing(processor_s, supervisor.marks, supervisor.timed, supervisor.setup)
    return TrialResult(
        id=spec.id,
        spec_digest=spec.digest,
        outcome=stop.outcome,
        reason=stop.reason,
        disturbed=stop.disturbed,
        started_at=clock.started_at,
        finished_at=time.time(),
        val_bpb=_bpb(scoring.val) if ok else None,
        heldout_bpb=_bpb(scoring.heldout) if ok else None,
        unseen_bpb=_bpb(scoring.unseen) if ok else None,
        wall_s=clock.wall_s,
        memory_mib=_finite(supervisor.printed.summary.get("peak_vram_mb")) or peak_mib or None,
        before_s=speed.before_s,
        after_s=speed.after_s,
        timing=timing,
        trust=_trust(bpb, printed_bpb, seen.replica),
        steps=supervisor.printed.steps if supervisor.printed.steps is not None else supervisor.claims.steps or None,
        tokens=tokens,
        tokens_per_s=tokens / timing.timed_wall_s if tokens and timing.timed_wall_s else None,
        load=os.getloadavg()[0],
        params_m=_finite(supervisor.printed.summary.get("num_params_M")),
        exit_code=ending.exit_code if ending is not None else None,
        loss_curve=supervisor.printed.curve,
        layers=_layers(spec, config, ending),
        probes=_probes(seen.replica),
        device=machine.device(supervisor.claims.device, supervisor.claims.threads, supervisor.claims.memory_mib),
        worker=config.worker,
        log=_log(spec, config, supervisor),
    )


def _timing(processor_s: float, marks: Timeline, timed: float | None, setup: float | None) -> Timing:
    """Return the lengths of a trial's phases, from their recorded moments."""
    return Timing(
        processor_s=processor_s,
        start_s=_wall_between(marks.launched, marks.imported),
        setup_s=_wall_between(marks.imported, marks.first_batch),
        warmup_s=_wall_between(marks.first_batch, marks.warm),
        timed=timed,
        timed_wall_s=_wall_between(marks.warm, marks.ready),
        scoring_s=_wall_between(marks.ready, marks.scored),
        setup=setup,
    )


def _bpb(score: Score | None) -> float | None:
    """Return a score in bits per byte, or None if nothing was scored."""
    return score.bpb if score is not None else None


def _trust(bpb: float | None, printed_bpb: float | None, finding: CausalityFinding | None) -> Trust | None:
    """Return how far a score was examined, or None without a score. Without a replica's finding no probe is named."""
    if bpb is None:
        return None
    agrees = printed_agrees(bpb, printed_bpb) if printed_bpb is not None else None
    plain = Trust(evaluator=EVALUATOR, printed_bpb=_finite(printed_bpb), printed_agrees=agrees)
    if finding is None:
        return plain
    return replace(plain, probe=PROBE, probe_rows=finding.rows, tolerance=finding.tolerance)


def _probes(finding: CausalityFinding | None) -> dict[str, float]:
    """Return the finite numbers of a replica's finding, in nats.

    `noise` and `change` are the largest differences of a loss, `profit` is a token's mean gain from the text after it,
    `profit_error` its standard error, and `smallest_caught` the smallest such gain that is detected 99 times in 100.
    """
    if finding is None:
        return {}
    seen = {
        "noise": finding.noise,
        "change": finding.change,
        "profit": finding.profit,
        "profit_error": finding.profit_error,
        "smallest_caught": finding.smallest_caught,
    }
    return {name: value for name, value in seen.items() if math.isfinite(value)}


def _finite(value: float | None) -> float | None:
    """Return the value, or None if it is not a finite number."""
    return value if value is not None and math.isfinite(value) else None


def _wall_between(start: Mark | None, end: Mark | None) -> float | None:
    return end.wall_s - start.wall_s if start is not None and end is not None else None


def _layers(spec: TrialSpec, config: WorkerConfig, ending: ExitReport | None) -> tuple[str, ...]:
    """Return the sandbox layers that were applied, as the guardian reports them; none without a report."""
    if ending is None or not ending.started:
        return ()
    memory = ("memory-watchdog",) if spec.caps.memory_mib is not None else ()
    disk = ("disk-watchdog",) if can_be_counted(config.work) else ()
    return (*ending.layers, *memory, *disk, "wall-limit")


def _log(spec: TrialSpec, config: WorkerConfig, supervisor: Supervisor) -> TrialLog:
    text = supervisor.sink.text()
    return TrialLog(
        path=result_store.store_log(config.results, spec.id, text),
        seen_bytes=supervisor.sink.seen_bytes,
        kept_bytes=len(text.encode()),
        tail=supervisor.sink.quotable_text()[-LOG_TAIL_CHARACTERS:],
    )


def _without_run(spec: TrialSpec, config: WorkerConfig, clock: _Clock, stop: Termination) -> TrialResult:
    return TrialResult(
        id=spec.id,
        spec_digest=spec.digest,
        outcome=stop.outcome,
        reason=stop.reason,
        started_at=clock.started_at,
        finished_at=time.time(),
        worker=config.worker,
    )
