"""The report of `overnight gpu-check`: measured values, the findings and settings that follow from them, text and JSON.

Pure. A value that was not measured is None, and never 0. The thresholds are chosen, and no GPU has confirmed them.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from researcher.llm.gpu_memory_split import Split, margin_mib, placement_for
from services.doctor.finding import Finding, Severity, exit_code, fail, ok, skip, warn
from services.machine.gpus import InstalledGpu
from trainer.jobs import Profile

RESULT_MARK = "measured: "  # begins the line of a result of `gpu_measurements`
SCORED_ROWS = 64
RUN_HOURS = 8
LEAST_CORES, LEAST_MEMORY_GIB, LEAST_DISK_GIB = 4, 12.0, 20.0
LARGEST_DIFFERENCE = 0.05  # relative to the largest value; bf16 keeps 8 bits of a number
LONGEST_COMPILE_SHARE = 0.8  # of the seconds that a trial may compile
HOT_C = 85
_RESERVE_SHARE, _RESERVE_STEP_MIB = 1.05, 256  # above the measured memory of the LLM, rounded up


@dataclass(frozen=True)
class Host:
    """The memory in GiB, the processor cores that this process may use, and the free disk of the state in GiB."""

    memory_gib: float
    cores: int
    disk_gib: float


@dataclass(frozen=True)
class Sensors:
    """The GPU at one moment: used memory, clock and largest clock of the processors, temperature, reasons to throttle.

    None stands for a value that the driver does not give.
    """

    used_mib: int
    clock_mhz: int | None = None
    most_clock_mhz: int | None = None
    temperature_c: int | None = None
    throttled: tuple[str, ...] = ()


@dataclass(frozen=True)
class Arithmetic:
    """The build of torch, the device that it computed on, and the largest relative difference from float32."""

    torch: str
    device: str
    difference: float


@dataclass(frozen=True)
class Training:
    """Some steps of train.py with the profile's shape, and the scoring of some rows.

    `setup_s` ends before the first step, `compile_s` is spent in the first steps, and `first_answer_s` on the first
    answer, which compiles as well. `row_s` scores one row. `peak_mib` is reserved memory, None without a GPU.
    """

    batch: int
    setup_s: float
    compile_s: float
    step_s: float
    first_answer_s: float
    row_s: float
    peak_mib: int | None


@dataclass(frozen=True)
class LlmLoad:
    """A loaded LLM: its size and the part on the GPU as Ollama says, and the memory that the driver saw it take."""

    model: str
    num_ctx: int
    size_mib: int
    on_gpu_mib: int
    taken_mib: int


@dataclass(frozen=True)
class Measured:
    """All measured values; None for one that was not measured."""

    host: Host | None = None
    kernel: Arithmetic | None = None
    attention: Arithmetic | None = None
    sandbox_ok: bool | None = None
    llm: LlmLoad | None = None
    cold: Training | None = None
    warm: Training | None = None
    largest_batch: int | None = None
    cap_refused: bool | None = None
    llm_answered: bool | None = None
    sensors: Sensors | None = None


@dataclass(frozen=True)
class GpuReport:
    """The findings about one GPU under one profile; `gpu` is None without one."""

    at: datetime
    profile: Profile
    gpu: InstalledGpu | None
    measured: Measured
    findings: tuple[Finding, ...]

    @property
    def exit_code(self) -> int:
        """Return 1 if a run would fail, else 0."""
        return exit_code(self.findings)

    @property
    def trial_s(self) -> float | None:
        """The wall seconds of a trial that compiles everything, or None if its training was not measured."""
        cold, budget = self.measured.cold, self.profile.budget
        if cold is None:
            return None
        steps_s = cold.compile_s + budget.warmup_steps * cold.step_s + budget.amount
        return cold.setup_s + steps_s + cold.first_answer_s + budget.eval_rows * cold.row_s

    @property
    def split(self) -> Split | None:
        """The split of the GPU's memory by measured values, or None if too little was measured."""
        memory_mib = None if self.gpu is None else self.gpu.gpu.memory_mib
        peak_mib = None if self.measured.cold is None else self.measured.cold.peak_mib
        if memory_mib is None or peak_mib is None:
            return None
        placement, llm = placement_for(self.profile.name), self.measured.llm
        reserve_mib = placement.reserve_mib if llm is None else reserved_mib(llm.taken_mib)
        return Split(memory_mib, reserve_mib or 0, peak_mib, margin_mib(memory_mib), placement.resident)

    @property
    def settings(self) -> dict[str, str]:
        """The settings for gpu.local.env, none if a run would fail or too little was measured."""
        if self.exit_code or (split := self.split) is None:
            return {}
        found = {"PROFILE": self.profile.name, "TRAINER_CAP_MIB": str(split.largest_cap_mib)}
        if (llm := self.measured.llm) is not None:
            found |= {"MODEL": llm.model, "NUM_CTX": str(llm.num_ctx), "LLM_RESERVE_MIB": str(split.reserve_mib)}
        return found

    @property
    def summary(self) -> str:
        """The last line of the report: the duration of a trial and its memory, or the first fault and its repair."""
        faults = [each for each in self.findings if each.severity is Severity.FAIL]
        if faults:
            what = "No GPU can be used here" if self.gpu is None else "A run on this GPU would fail"
            return f"{what}: {faults[0].name}: {faults[0].found}. Next: {faults[0].fix}"
        if (trial_s := self.trial_s) is None:
            return "Too little was measured to say how long a trial takes."
        trials = int(RUN_HOURS * 3600 / trial_s)
        text = f"A trial will take about {minutes(trial_s)}, {trials} in {RUN_HOURS} hours"
        if (split := self.split) is not None:
            text += f", {split.cap_mib / 1024:.1f} GiB of {split.largest_cap_mib / 1024:.1f}"
        return f"{text}."


def reserved_mib(taken_mib: int) -> int:
    """Return the memory in MiB to reserve for an LLM that took `taken_mib`."""
    return -int(-taken_mib * _RESERVE_SHARE // _RESERVE_STEP_MIB) * _RESERVE_STEP_MIB


def minutes(seconds: float) -> str:
    """Return a duration as minutes and seconds, as in 8:20."""
    return f"{round(seconds) // 60}:{round(seconds) % 60:02d}"


def host_findings(host: Host) -> Iterator[Finding]:
    """Judge the machine around the GPU. Few cores only make a run slower."""
    memory, disk = f"{host.memory_gib:.1f} GiB", f"{host.disk_gib:.1f} GiB free"
    if host.memory_gib < LEAST_MEMORY_GIB:
        yield fail("memory", memory, "rent a machine with more memory", f">= {LEAST_MEMORY_GIB:g}")
    else:
        yield ok("memory", memory)
    if host.cores < LEAST_CORES:
        yield warn("cores", str(host.cores), f"expect long compilation and scoring, or take >= {LEAST_CORES} cores")
    else:
        yield ok("cores", str(host.cores))
    if host.disk_gib < LEAST_DISK_GIB:
        yield fail("disk", disk, "free some, or set OVERNIGHT_STATE to a larger disk", f">= {LEAST_DISK_GIB:g}")
    else:
        yield ok("disk", disk)


def arithmetic_finding(name: str, found: Arithmetic) -> Finding:
    """Judge a computation on the GPU; a difference of NaN fails."""
    if found.device != "cuda":
        return fail(name, f"torch {found.torch} sees no GPU", "install a build of torch with CUDA: scripts/setup run")
    text = f"torch {found.torch}, {found.difference:.1e} from float32"
    if found.difference <= LARGEST_DIFFERENCE:
        return ok(name, text)
    return fail(
        name, text, "install the torch build that fits the driver; then test the GPU", f"<= {LARGEST_DIFFERENCE}"
    )


def llm_finding(load: LlmLoad) -> Finding:
    """Judge the place of the LLM: all of it must be on the GPU."""
    text = f"{load.model} with {load.num_ctx} tokens of context: {load.on_gpu_mib} of {load.size_mib} MiB on the GPU"
    text += f", and the driver saw {load.taken_mib} MiB go"
    if load.on_gpu_mib < load.size_mib:
        return fail("LLM", text, "set a smaller MODEL or NUM_CTX")
    return ok("LLM", text)


def training_findings(cold: Training, warm: Training | None, profile: Profile) -> Iterator[Finding]:
    """Judge compilation, a step and scoring of a profile."""
    compile_text = f"{cold.compile_s:.0f} s cold"
    compile_text += "" if warm is None else f", {warm.compile_s:.0f} s with the caches of an earlier trial"
    if cold.compile_s > LONGEST_COMPILE_SHARE * profile.budget.warmup_cap_s:
        wanted = f"<= {LONGEST_COMPILE_SHARE * profile.budget.warmup_cap_s:.0f}"
        yield fail("compile", compile_text, "take a machine with more or faster cores", wanted)
    else:
        yield ok("compile", compile_text)
    peak = "" if cold.peak_mib is None else f", {cold.peak_mib} MiB at the peak"
    yield ok("step", f"{cold.step_s:.3f} s with batches of {cold.batch} rows{peak}")
    scoring_s = cold.first_answer_s + profile.budget.eval_rows * cold.row_s
    text = f"{profile.budget.eval_rows} rows in {scoring_s:.0f} s, from {SCORED_ROWS} rows"
    if scoring_s > profile.budget.scoring_s:
        yield fail("scoring", text, "take a machine with faster cores", f"<= {profile.budget.scoring_s:g}")
    else:
        yield ok("scoring", text)


def batch_finding(largest: int, batch: int) -> Finding:
    """Name the largest batch that fits into the memory that the LLM leaves."""
    return ok("batch", f"{largest} rows fit, the profile starts with {batch}")


def split_finding(split: Split) -> Finding:
    """Judge whether the LLM and the measured peak of the trainer fit together."""
    if split.fits:
        return ok("split", split.found)
    return fail("split", split.found, "choose the profile of a smaller GPU, or a smaller MODEL or NUM_CTX")


def cap_finding(refused: bool) -> Finding:
    """Judge whether the memory cap of a candidate holds."""
    if refused:
        return ok("cap", "an allocation of twice the cap is refused")
    return fail(
        "cap", "an allocation of twice the cap succeeds", "install another build of torch: the cap has no effect"
    )


def beside_finding(answered: bool) -> Finding:
    """Judge whether the LLM survives a candidate that asks for too much."""
    if answered:
        return ok("beside", "the LLM still answers afterwards")
    return fail("beside", "the LLM no longer answers after a refused allocation", "set a smaller MODEL or NUM_CTX")


def sensors_finding(sensors: Sensors) -> Finding:
    """Judge the clocks after the work. A throttled GPU makes trials slower, and unequal."""
    text = f"{_or_unknown(sensors.clock_mhz)} of {_or_unknown(sensors.most_clock_mhz)} MHz"
    text += f", {_or_unknown(sensors.temperature_c)} °C"
    if sensors.throttled:
        return warn(
            "clocks", f"{text}, throttled: {', '.join(sensors.throttled)}", "look after cooling and power limit"
        )
    if sensors.temperature_c is not None and sensors.temperature_c >= HOT_C:
        return warn("clocks", text, "look after cooling")
    return ok("clocks", text)


def _or_unknown(value: int | None) -> str:
    return "unknown" if value is None else str(value)


def not_measured(name: str, why: str) -> Finding:
    """Say that a measurement was impossible, and why."""
    return skip(name, why)


def text_of(report: GpuReport) -> str:
    """Return the report for people."""
    gpu = "no GPU" if report.gpu is None else f"{report.gpu.gpu.name}, driver {report.gpu.driver}"
    head = f"gpu-check, {report.at:%Y-%m-%d %H:%M} UTC: {gpu}, profile {report.profile.name}"
    settings = [f"  {name}={value}" for name, value in report.settings.items()]
    settings = ["", "Settings that follow, for gpu.local.env:", *settings] if settings else []
    return "\n".join([head, "", *(each.line() for each in report.findings), *settings, "", report.summary]) + "\n"


def json_of(report: GpuReport) -> str:
    """Return the report for programs."""
    gpu = report.gpu
    document: Mapping[str, Any] = {
        "version": 1,
        "at": report.at.isoformat(),
        "profile": report.profile.name,
        "gpu": None
        if gpu is None
        else {"name": gpu.gpu.name, "memory_mib": gpu.gpu.memory_mib, "uuid": gpu.uuid, "driver": gpu.driver}
        | {"capability": gpu.capability},
        "findings": [dataclasses.asdict(each) for each in report.findings],
        "measured": dataclasses.asdict(report.measured),
        "trial_s": report.trial_s,
        "settings": report.settings,
        "summary": report.summary,
        "exit_code": report.exit_code,
    }
    return json.dumps(_finite(document), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    """Return the value with None for every number that JSON cannot hold."""
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
