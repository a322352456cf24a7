"""One dry run from spec to answer, in the same sandbox as a trial.

Promises: `run_dry_run` returns an answer for everything that a candidate can do, after about a minute at most, and
leaves no process and no work folder behind. A candidate can forge the answer, which costs one trial. The module knows
nothing of Redis, RQ or torch.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace

from trainer.candidate.fake_tensor_run import DryRunOrders
from trainer.candidate.protocol import Channel, ChannelMessage
from trainer.jobs import (
    PROFILES,
    Budget,
    Caps,
    Clock,
    DryRunResult,
    DryRunSpec,
    DryRunVerdict,
    Kind,
    Outcome,
    TrialSpec,
    files_digest,
)
from trainer.jobs.redaction import redaction
from trainer.sandbox.cleanup import clear
from trainer.sandbox.launch import GuardedProcess, Launch
from trainer.sandbox.paths import WorkerConfig
from trainer.sandbox.visible_paths import Access, grants
from trainer.scoring.cross_entropy import Unscorable
from trainer.scoring.rows import DataFault, OtherPrepare, read_stand_in
from trainer.trial.disk_usage import Holdings, can_be_counted
from trainer.trial.outcome import Observation, classify
from trainer.trial.supervise import Supervisor

_LIMIT_S = 60.0  # some 4 s on a quiet machine
_GUARDIAN_GRACE_S = 10.0
_SEED = 1
_REASON_CHARACTERS = 640
_BUDGET = Budget(
    amount=1,
    clock=Clock.STEPS,
    warmup_steps=0,
    warmup_cap_s=0,
    setup_s=_LIMIT_S,
    scoring_s=0,
    eval_rows=1,
    heldout_rows=1,
)
_CAPS = Caps(memory_mib=4096, vram_mib=None, processes=64, file_mib=16, log_kib=64)


def run_dry_run(spec: DryRunSpec, config: WorkerConfig, stopped: Callable[[], bool]) -> DryRunResult:
    """Run the dry run of the spec's train.py.

    `stopped` is called ten times a second; once it returns True, the answer is `unknown`.
    """
    began_s = time.monotonic()
    try:
        stand_in = read_stand_in(config.data)
        launched = spec if stand_in is None else replace(spec, files=stand_in.files(spec.files))
    except (DataFault, OtherPrepare) as fault:
        return DryRunResult(spec.id, DryRunVerdict.UNKNOWN, str(fault), None, None, time.monotonic() - began_s)
    clear(config.folder, config.user)
    try:
        supervisor = _supervised(launched, config, Access() if stand_in is None else stand_in.access, stopped)
    finally:
        clear(config.folder, config.user)
    verdict, reason, line, parameters = _answer(spec, supervisor)
    return DryRunResult(spec.id, verdict, reason, line, parameters, time.monotonic() - began_s)


class _NoExam:
    """The examination of a dry run, which asks for no logits."""

    share = 0.0
    awaits_weights = False

    def begin(self, *, half: bool) -> None:
        """Raise Unscorable. Only a script that sends messages in place of the runner gets here."""
        raise Unscorable("it asked for its score, and a dry run has none")

    def served(self, message: ChannelMessage) -> bool:
        """Raise Unscorable, because no question was asked."""
        raise Unscorable(f"it sent {message.word.name}, and a dry run asks nothing")

    def close(self) -> None:
        """Do nothing, because nothing is open."""


def _answer(spec: DryRunSpec, supervisor: Supervisor) -> tuple[DryRunVerdict, str, int | None, int | None]:
    reported = supervisor.claims.verdict
    if reported is None or supervisor.stop is not None or supervisor.ending is None or supervisor.ending.exit_code != 0:
        return DryRunVerdict.UNKNOWN, _why_not(supervisor), None, None
    lines = supervisor.sink.last_lines(1)
    reason = lines[0][:_REASON_CHARACTERS] if lines else "it printed no reason"
    verdict = DryRunVerdict(reported.text) if reported.text in set(DryRunVerdict) else DryRunVerdict.UNKNOWN
    line = reported.number if 0 < reported.number <= len(spec.files["train.py"].splitlines()) else None
    parameters = int(reported.x) or None
    lacking = _lacking_memory(reported, spec.cap_mib)
    if verdict is DryRunVerdict.PASSES and lacking is not None:
        return DryRunVerdict.FAILS, lacking, None, parameters
    return verdict, reason, line, parameters


def _why_not(supervisor: Supervisor) -> str:
    """Return why there is no answer, with the reason of a trial's outcome where it fits."""
    stop, ending = supervisor.stop, supervisor.ending
    if stop is not None and stop.outcome is Outcome.TIMED_OUT:
        return f"its dry run did not end within {_LIMIT_S:g} s"
    if stop is None and ending is not None and ending.started and ending.exit_code == 0:
        return "it left before its dry run ended"
    last = tuple(supervisor.sink.last_lines(5))
    return classify(
        Observation(stop=stop, ending=ending, asked_for_score=False, bpb=None, printed_bpb=None, last_lines=last)
    ).reason


def _lacking_memory(reported: ChannelMessage, cap_mib: int | None) -> str | None:
    """Return a sentence if the model cannot fit into the cap, otherwise None.

    Weights and gradients are in memory at the same time, whatever the optimiser and the batch.
    """
    needed_mib = reported.y / 2**20
    if cap_mib is None or needed_mib <= cap_mib:
        return None
    return (
        f"the {reported.x / 1e6:.1f} M parameters of its model and their gradients take {needed_mib:.0f} MiB at least; "
        f"the cap is {cap_mib} MiB"
    )


def _supervised(spec: DryRunSpec, config: WorkerConfig, access: Access, stopped: Callable[[], bool]) -> Supervisor:
    """Run the dry run to its end under a supervisor."""
    ours, theirs = Channel.pair()
    ours.setblocking(False)
    try:
        guarded = GuardedProcess.start(_launch(spec, config, access, theirs.fileno()))
        theirs.close()
        try:
            holdings = Holdings(config.folder) if can_be_counted(config.work) else None
            redact = redaction(config.secrets)
            supervisor = Supervisor(
                _as_trial(spec), guarded, Channel(ours), _NoExam(), lambda _: None, stopped, holdings, redact
            )
            supervisor.run()
        finally:
            guarded.close()
    finally:
        theirs.close()
        ours.close()
    return supervisor


def _as_trial(spec: DryRunSpec) -> TrialSpec:
    """Return a trial spec with the limits of a dry run, as the supervisor needs it."""
    return TrialSpec(
        id="dry-run-0-t0-a0",
        kind=Kind.MANUAL,
        profile=spec.profile,
        files=spec.files,
        files_sha256=files_digest(spec.files),
        data_sha256="",
        seed=_SEED,
        budget=_BUDGET,
        caps=_CAPS,
    )


def _launch(spec: DryRunSpec, config: WorkerConfig, access: Access, control_fd: int) -> Launch:
    profile = PROFILES.get(spec.profile)
    on_gpu = profile is None or profile.device != "cpu"  # an unknown profile counts as a GPU's, to be cautious
    return Launch(
        folder=config.folder.absolute(),
        files=spec.files,
        orders=json.dumps(asdict(DryRunOrders(control_fd, _SEED, on_gpu))),
        env={
            "OVERNIGHT_DATA": str(config.data.absolute()),
            "OVERNIGHT_SEED": str(_SEED),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONHASHSEED": str(_SEED),
            **access.environment,
        },
        keep_fds=(control_fd,),
        wall_limit_s=_BUDGET.wall_limit_s + _GUARDIAN_GRACE_S,
        file_mib=_CAPS.file_mib,
        processes=_CAPS.processes,
        grants=[*grants(config.data), *access.grants],
        user=config.user,
        module="trainer.candidate.fake_tensor_run",
    )
