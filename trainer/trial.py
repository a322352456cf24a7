"""One trial from spec to result: work folder, guardian, supervision, trusted scoring, result file.

Promises: `run_trial` returns a typed outcome for everything a candidate can do, leaves no process and no work folder
behind, and has written the result to disk before it returns. Knows nothing of Redis, RQ or torch.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from trainer import archive, calibration, card, machine, record, room
from trainer.disk import Holdings, can_be_counted
from trainer.grants import grants
from trainer.jobs import (
    Calibration,
    Clock,
    Kind,
    Outcome,
    Progress,
    TrialLog,
    TrialResult,
    TrialSpec,
)
from trainer.jobs.result import LOG_TAIL_CHARACTERS
from trainer.launch import Ending, Guarded, Launch, User, layers
from trainer.leftovers import clear
from trainer.record import finite
from trainer.redaction import redaction
from trainer.rows import DataFault, ScoringRows, read_rows
from trainer.runner import RunnerOrders
from trainer.scoring import Buffers, Counts, Scoring
from trainer.verdict import Observed, Stop, judge
from trainer.watch import Watch
from trainer.wire import Channel, Layout

_GUARDIAN_GRACE_S = 10.0
FIRST_AGAIN_ROWS, CLAIM_AGAIN_ROWS = 512, 2048


@dataclass(frozen=True)
class Places:
    """What is this trainer's: folders of a profile's data, of results that stay, of work that does not; its worker's
    name; the user that candidates run as, if not our own; its own cap of a card's memory; what no log may show."""

    data: Path
    trials: Path
    work: Path
    worker: str | None = None
    user: User | None = None
    vram_cap_mib: int | None = None
    secrets: tuple[str, ...] = field(default=(), repr=False)


def run_trial(
    spec: TrialSpec, places: Places, report: Callable[[Progress], None], preempted: Callable[[], bool]
) -> TrialResult:
    """Run one trial, or give its stored result again. `report` must not block; `preempted` is asked ten times a second.

    Data that is not the spec's is `lost`: this trainer cannot measure that trial, another attempt may.
    """
    known = archive.stored(places.trials, spec)
    if known is not None:
        return known
    clock = _Clock(time.time(), time.monotonic())
    if (words := room.lacking(places.trials, places.work) or card.lacking(spec.caps)) is not None:
        return _without_run(spec, places, clock, Stop(Outcome.LOST, f"it was not begun: {words}"))
    try:
        rows = read_rows(places.data, spec.data_sha256)
    except DataFault as fault:
        return archive.store(places.trials, _without_run(spec, places, clock, Stop(Outcome.LOST, str(fault))))
    folder = places.work / spec.id
    clear(folder, places.user)
    before_s = _calibrate(spec)
    try:
        watch, scoring, oom_kills = _supervise(spec, places, rows, report, preempted)
    finally:
        clear(folder, places.user)
    after_s = None if preempted() else _calibrate(spec)
    speed = Calibration(before_s or finite(watch.claims.calibration_s or None), after_s)
    return archive.store(places.trials, _result(spec, places, clock, watch, scoring, oom_kills, speed))


def _calibrate(spec: TrialSpec) -> float | None:
    """Where wall seconds count, the candidate's process does it on the card."""
    return None if spec.budget.clock is Clock.WALL else calibration.processor_s()


@dataclass(frozen=True)
class _Clock:
    started_at: float
    started_s: float

    @property
    def wall_s(self) -> float:
        return time.monotonic() - self.started_s


def _supervise(
    spec: TrialSpec,
    places: Places,
    rows: ScoringRows,
    report: Callable[[Progress], None],
    preempted: Callable[[], bool],
) -> tuple[Watch, Scoring, int]:
    buffers = Buffers(Layout.fitting(rows.context, rows.vocab, spec.budget.eval_rows))
    ours, theirs = Channel.pair()
    ours.setblocking(False)
    folder = places.work / spec.id
    again = FIRST_AGAIN_ROWS if spec.kind is Kind.FIRST else CLAIM_AGAIN_ROWS
    counts = Counts(spec.budget.eval_rows, again, spec.budget.heldout_rows)
    scoring = Scoring(Channel(ours), buffers, rows, counts, lambda bpb: _deserves_more(spec, bpb))
    oom_kills = machine.kernel_oom_kills()
    try:
        guarded = Guarded.start(_launch(spec, places, folder, buffers, theirs.fileno()))
        theirs.close()
        try:
            holdings = Holdings(folder) if can_be_counted(places.work) else None
            watch = Watch(spec, guarded, Channel(ours), scoring, report, preempted, holdings, redaction(places.secrets))
            watch.run()
        finally:
            guarded.close()
    finally:
        theirs.close()
        ours.close()
        scoring.close()
        buffers.close()
    return watch, scoring, machine.kernel_oom_kills() - oom_kills


def _deserves_more(spec: TrialSpec, bpb: float) -> bool:
    """Only a score that may be kept pays for a closer look."""
    return spec.kind is not Kind.FIRST or (spec.score_to_beat is not None and bpb < spec.score_to_beat)


def _launch(spec: TrialSpec, places: Places, folder: Path, buffers: Buffers, control_fd: int) -> Launch:
    budget, layout = spec.budget, buffers.layout
    orders = RunnerOrders(
        control_fd=control_fd,
        inputs_fd=buffers.inputs_fd,
        logits_fd=buffers.logits_fd,
        seed=spec.seed,
        clock=budget.clock.value,
        amount=budget.amount,
        warmup_steps=budget.warmup_steps,
        warmup_cap_s=budget.warmup_cap_s,
        vram_mib=_vram_mib(spec, places),
        rows=layout.rows,
        context=layout.context,
        vocab=layout.vocab,
    )
    return Launch(
        folder=folder.absolute(),
        files=spec.files,
        orders=json.dumps(asdict(orders)),
        env={
            "OVERNIGHT_DATA": str(places.data.absolute()),
            "OVERNIGHT_SEED": str(spec.seed),
            "OMP_NUM_THREADS": str(_threads(budget.clock)),
            "PYTHONHASHSEED": str(spec.seed % 2**32),
        },
        keep_fds=(control_fd, buffers.inputs_fd, buffers.logits_fd),
        wall_limit_s=budget.wall_limit_s + _GUARDIAN_GRACE_S,
        file_mib=spec.caps.file_mib,
        processes=spec.caps.processes,
        grants=grants(places.data),
        user=places.user,
    )


def _vram_mib(spec: TrialSpec, places: Places) -> int | None:
    """The smaller cap of the card's memory: the trial's or this trainer's."""
    return min((cap for cap in (spec.caps.vram_mib, places.vram_cap_mib) if cap is not None), default=None)


def _threads(clock: Clock) -> int:
    """One where processor seconds or steps are counted: a second buys the same work whatever the number of cores."""
    return os.cpu_count() or 1 if clock is Clock.WALL else 1


def _result(
    spec: TrialSpec, places: Places, clock: _Clock, watch: Watch, scoring: Scoring, oom_kills: int, speed: Calibration
) -> TrialResult:
    printed_bpb = watch.printed.summary.get("val_bpb")
    bpb = scoring.val.bpb if scoring.val is not None and watch.marks.scored is not None else None
    stop = judge(
        Observed(
            stop=watch.stop,
            ending=watch.ending,
            asked_for_score=watch.marks.ready is not None,
            bpb=bpb,
            printed_bpb=printed_bpb,
            last_lines=tuple(watch.sink.last_lines(5)),
            kernel_oom_kills=oom_kills,
            vram_mib=_vram_mib(spec, places) if watch.claims.memory_mib else None,
            no_room=room.lacking(places.work),
        )
    )
    ok = stop.outcome is Outcome.OK
    tokens = watch.claims.tokens
    ending = watch.ending
    processor_s = ending.processor_s if ending is not None else watch.peaks.processor_s
    timing = record.timing(clock.wall_s, processor_s, watch.marks, watch.timed)
    return TrialResult(
        id=spec.id,
        spec_digest=spec.digest,
        outcome=stop.outcome,
        reason=stop.reason,
        started_at=clock.started_at,
        finished_at=time.time(),
        timing=timing,
        metric=record.metric(scoring.val) if ok else None,
        heldout=record.metric(scoring.heldout) if ok else None,
        trust=record.trust(bpb, printed_bpb, scoring.finding),
        steps=watch.printed.steps if watch.printed.steps is not None else watch.claims.steps or None,
        tokens=tokens,
        tokens_per_s=tokens / timing.timed_wall_s if tokens and timing.timed_wall_s else None,
        load=os.getloadavg()[0],
        calibration=speed if speed.before_s is not None else None,
        peak_memory_mib=max(watch.peaks.rss_mib, ending.peak_rss_mib if ending is not None else 0.0) or None,
        peak_vram_mib=finite(watch.printed.summary.get("peak_vram_mb")),
        params_m=finite(watch.printed.summary.get("num_params_M")),
        exit_code=ending.exit_code if ending is not None else None,
        loss_curve=watch.printed.curve,
        layers=_layers(spec, places, ending),
        probes=record.probes(scoring.finding),
        device=machine.device(watch.claims.device, watch.claims.threads, watch.claims.memory_mib),
        worker=places.worker,
        log=_log(spec, places, watch),
    )


def _layers(spec: TrialSpec, places: Places, ending: Ending | None) -> tuple[str, ...]:
    """What stood around the candidate; nothing around one that was never there."""
    if ending is not None and not ending.started:
        return ()
    memory = ("memory-watchdog",) if spec.caps.memory_mib is not None else ()
    disk = ("disk-watchdog",) if can_be_counted(places.work) else ()
    return (*layers(places.user), *memory, *disk, "wall-limit")


def _log(spec: TrialSpec, places: Places, watch: Watch) -> TrialLog:
    text = watch.sink.text()
    return TrialLog(
        path=archive.store_log(places.trials, spec.id, text),
        seen_bytes=watch.sink.seen_bytes,
        kept_bytes=len(text.encode()),
        tail=text[-LOG_TAIL_CHARACTERS:],
    )


def _without_run(spec: TrialSpec, places: Places, clock: _Clock, stop: Stop) -> TrialResult:
    return TrialResult(
        id=spec.id,
        spec_digest=spec.digest,
        outcome=stop.outcome,
        reason=stop.reason,
        started_at=clock.started_at,
        finished_at=time.time(),
        worker=places.worker,
    )
