"""`overnight gpu-check`: the order of the measurements, and what becomes of one that fails.

A machine gives the measured values; tests pass machines with a fault. The examination ends at once where nothing else
can be measured: without a usable GPU, or with a kernel that computes something else. Every other measurement that fails
becomes a finding, and the next one follows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Protocol, TypeVar

from researcher.errors import OvernightError
from researcher.llm.gpu_memory_split import placement_for
from services.doctor import gpu_report
from services.doctor.finding import Finding, Severity, fail, ok
from services.doctor.gpu_report import Arithmetic, GpuReport, Host, LlmLoad, Measured, Sensors, Training
from services.machine.gpus import (
    GpuFault,
    InstalledGpu,
    detect_profile,
    hidden_text,
    torch_build,
    visible_gpus,
)
from trainer.jobs import Profile, profile_named

MOST_ROWS = 512  # no larger batch is tried
_DRIVER = "install NVIDIA's driver and reboot; without a GPU: overnight run --profile cpu"

Value = TypeVar("Value")


class MeasurementFailed(OvernightError):
    """A measurement was possible and failed."""


class NotMeasurable(OvernightError):
    """A measurement is impossible here, and a run may be possible nevertheless."""


class TooLittleMemory(OvernightError):
    """Some steps of training did not fit into the memory of the GPU."""


class GpuMachine(Protocol):
    """The source of measured values. Its methods raise MeasurementFailed and NotMeasurable."""

    def installed_gpus(self) -> list[InstalledGpu]:
        """Return the GPUs of this machine. Raises GpuFault."""
        ...

    def host(self) -> Host:
        """Return the memory, cores and disk."""
        ...

    def kernel(self) -> Arithmetic:
        """Compare a product of matrices with that in float32."""
        ...

    def attention(self, profile: Profile) -> Arithmetic:
        """Compare flex attention at the profile's head size, forward and backward, with plain attention."""
        ...

    def sandbox_fault(self) -> str | None:
        """Return why a candidate in the sandbox cannot use the GPU, or None."""
        ...

    def load_llm(self, profile: Profile, gpu: InstalledGpu) -> LlmLoad:
        """Load the LLM of the profile."""
        ...

    def llm_answers(self) -> bool:
        """Return whether the loaded LLM answers."""
        ...

    def unload_llm(self) -> None:
        """Unload the LLM."""
        ...

    def training(self, profile: Profile, batch: int, cap_mib: int | None) -> Training:
        """Train some steps with batches of that many rows. Raises also TooLittleMemory."""
        ...

    def cap_refused(self) -> bool:
        """Return whether an allocation of twice a cap is refused."""
        ...

    def sensors(self, gpu: InstalledGpu) -> Sensors:
        """Return the state of the GPU."""
        ...


@dataclass
class _Examination:
    """The findings and values so far."""

    machine: GpuMachine
    findings: list[Finding] = field(default_factory=list)
    measured: Measured = field(default_factory=Measured)

    def measure(self, name: str, key: str, measurement: Callable[[], Value]) -> Value | None:
        """Take a measurement, and record its value, or the finding that it failed."""
        try:
            value = measurement()
        except (MeasurementFailed, TooLittleMemory) as error:
            self.findings.append(fail(name, error.found, error.next_step))
        except NotMeasurable as error:
            self.findings.append(gpu_report.not_measured(name, error.found))
        else:
            changed: dict[str, Any] = {key: value}
            self.measured = replace(self.measured, **changed)
            return value
        return None


def check_gpu(
    machine: GpuMachine,
    environment: Mapping[str, str],
    profile: Profile | None,
    at: datetime,
    say: Callable[[str], object],
) -> GpuReport:
    """Examine the first visible GPU under a profile, by default that of its memory. `say` gets the next measurement."""
    examination = _Examination(machine)
    say("driver")
    finding, gpu = _driver(machine, environment)
    examination.findings.append(finding)
    if profile is None:
        profile = profile_named("cpu" if gpu is None else detect_profile([gpu.gpu]))
    if gpu is not None and profile.device == "cpu":
        text = f"no profile fits {gpu.gpu.name} with {gpu.gpu.memory_mib} MiB"
        examination.findings.append(fail("profile", text, "overnight run --profile cpu"))
    elif gpu is not None:
        for step in _steps(examination, profile, gpu):
            say(step)
    return GpuReport(at, profile, gpu, examination.measured, tuple(examination.findings))


def _driver(machine: GpuMachine, environment: Mapping[str, str]) -> tuple[Finding, InstalledGpu | None]:
    """Find the GPU; None if there is none that torch can use."""
    build = torch_build()
    try:
        installed = machine.installed_gpus()
    except GpuFault as error:
        return fail("driver", error.found, error.next_step), None
    visible = visible_gpus(installed, environment)
    if not visible:
        found = hidden_text(environment) if installed else "no NVIDIA GPU, or no driver"
        return fail("driver", found, _DRIVER, f">= {build.driver}"), None
    gpu = visible[0]
    if (fault := build.lacks(gpu)) is not None:
        return fail("driver", fault, _DRIVER), None
    capability = "unknown" if gpu.capability is None else ".".join(map(str, gpu.capability))
    return ok("driver", f"{gpu.driver}, {gpu.gpu.name}, {gpu.gpu.memory_mib} MiB, compute capability {capability}"), gpu


def _steps(examination: _Examination, profile: Profile, gpu: InstalledGpu) -> Iterator[str]:
    """Take all measurements; yields the name of each before it begins."""
    machine, findings = examination.machine, examination.findings
    yield "host"
    if (host := examination.measure("host", "host", machine.host)) is not None:
        findings.extend(gpu_report.host_findings(host))
    yield "kernel"
    kernel = examination.measure("kernel", "kernel", machine.kernel)
    if kernel is not None:
        findings.append(gpu_report.arithmetic_finding("kernel", kernel))
    if findings[-1].severity is Severity.FAIL:
        return
    yield "attention"
    if (attention := examination.measure("attention", "attention", lambda: machine.attention(profile))) is not None:
        findings.append(gpu_report.arithmetic_finding("attention", attention))
    yield "sandbox"
    _sandbox(examination)
    yield "LLM"
    load = examination.measure("LLM", "llm", lambda: machine.load_llm(profile, gpu))
    if load is not None:
        findings.append(gpu_report.llm_finding(load))
    resident = placement_for(profile.name).resident
    try:
        if load is not None and not resident:
            _unload(examination)
        yield "training"
        _training(examination, profile)
        yield "cap"
        _cap(examination, beside=load is not None and resident)
    finally:
        if load is not None and resident:
            _unload(examination)
    yield "clocks"
    if (sensors := examination.measure("clocks", "sensors", lambda: machine.sensors(gpu))) is not None:
        findings.append(gpu_report.sensors_finding(sensors))
    report = GpuReport(datetime.min, profile, gpu, examination.measured, ())
    if (split := report.split) is not None:
        findings.append(gpu_report.split_finding(split))


def _sandbox(examination: _Examination) -> None:
    def is_usable() -> bool:
        if (fault := examination.machine.sandbox_fault()) is not None:
            raise MeasurementFailed(fault, "scripts/doctor")
        return True

    if examination.measure("sandbox", "sandbox_ok", is_usable):
        examination.findings.append(ok("sandbox", "a candidate can use the GPU"))


def _training(examination: _Examination, profile: Profile) -> None:
    """Measure training cold and warm at the profile's batch, and then the largest batch that fits."""
    machine, batch = examination.machine, int(profile.knobs["DEVICE_BATCH_SIZE"])
    cap_mib = profile.caps.vram_mib
    cold = examination.measure("training", "cold", lambda: machine.training(profile, batch, cap_mib))
    if cold is None:
        return
    warm = examination.measure("training", "warm", lambda: machine.training(profile, batch, cap_mib))
    examination.findings.extend(gpu_report.training_findings(cold, warm, profile))
    largest = examination.measure("batch", "largest_batch", lambda: _largest_batch(machine, profile, batch))
    if largest is not None:
        examination.findings.append(gpu_report.batch_finding(largest, batch))


def _largest_batch(machine: GpuMachine, profile: Profile, batch: int) -> int:
    """Double the batch, in one step of the same size, until it does not fit any more."""
    most = min(MOST_ROWS, int(profile.knobs["TOTAL_BATCH_SIZE"]) // profile.context)
    while 2 * batch <= most:
        try:
            machine.training(profile, 2 * batch, None)
        except TooLittleMemory:
            break
        batch *= 2
    return batch


def _unload(examination: _Examination) -> None:
    try:
        examination.machine.unload_llm()
    except MeasurementFailed as error:
        examination.findings.append(fail("unload", error.found, error.next_step))


def _cap(examination: _Examination, *, beside: bool) -> None:
    machine, findings = examination.machine, examination.findings
    refused = examination.measure("cap", "cap_refused", machine.cap_refused)
    if refused is not None:
        findings.append(gpu_report.cap_finding(refused))
    if beside and (answered := examination.measure("beside", "llm_answered", machine.llm_answers)) is not None:
        findings.append(gpu_report.beside_finding(answered))


def training_of(measured: Mapping[str, Any]) -> Training:
    """Return the values of a training process. Raises TooLittleMemory."""
    if measured.get("out_of_memory"):
        raise TooLittleMemory(
            "the batch does not fit into the memory of the GPU", "choose the profile of a smaller GPU"
        )
    return Training(**measured)
