"""This machine as a source of the values that `gpu_check` asks for.

What runs on the GPU does so in processes of its own (`gpu_measurements`). No GPU has run this yet: without one, only
the host's values and the processes on the processor were tried.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pynvml

from researcher.config.settings import TABLE
from researcher.errors import LlmUnavailable
from researcher.llm.gpu_memory_split import placement_for
from researcher.llm.ollama_api import OllamaSettings
from researcher.llm.ollama_memory import Residence
from researcher.source.knobs import set_knobs
from services.doctor.environment import free_bytes
from services.doctor.gpu_check import MeasurementFailed, NotMeasurable, training_of
from services.doctor.gpu_report import RESULT_MARK, SCORED_ROWS, Arithmetic, Host, LlmLoad, Sensors, Training
from services.machine.gpus import InstalledGpu, installed_gpus
from services.machine.state import State
from services.machine.subject import render_subject
from trainer.jobs import Profile
from trainer.jobs.environment import Program, environment, python_command
from trainer.sandbox.candidate_user import AUTO, WorkFolderRefused, acquire
from trainer.sandbox.cleanup import NotSwept
from trainer.sandbox.paths import WorkerConfig
from trainer.sandbox.selftest import Unsafe, check_sandbox
from trainer.trial.gpu import ask_driver

Value = TypeVar("Value")

STEPS = 5
_GIB, _MIB = 2**30, 2**20
_MEASUREMENT_S, _NVML_S, _ANSWER_S = 240.0, 30.0, 120.0
_ANSWER_TOKENS = 16
_DOCTOR = "overnight doctor"
_THROTTLING = {
    pynvml.nvmlClocksEventReasonSwPowerCap: "power limit",
    pynvml.nvmlClocksEventReasonHwSlowdown: "hardware slowdown",
    pynvml.nvmlClocksEventReasonSwThermalSlowdown: "temperature",
    pynvml.nvmlClocksEventReasonHwThermalSlowdown: "temperature, by hardware",
    pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown: "power brake",
}


class ThisMachine:
    """The values of this machine. The compiler's caches begin empty, in `folder`.

    `settings` are those of the run: OLLAMA_HOST, LLM, MODEL and NUM_CTX are read.
    """

    def __init__(self, state: State, settings: Mapping[str, str], folder: Path) -> None:
        self._state = state
        self._settings = settings
        self._folder = folder
        self._llm: OllamaSettings | None = None

    def installed_gpus(self) -> list[InstalledGpu]:
        """Return the GPUs of this machine. Raises GpuFault."""
        return installed_gpus()

    def host(self) -> Host:
        """Return memory, cores and disk. A limit of a container is not seen."""
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return Host(memory / _GIB, len(os.sched_getaffinity(0)), free_bytes(self._state.root) / _GIB)

    def kernel(self) -> Arithmetic:
        """Compare a product of matrices with that in float32."""
        return Arithmetic(**self.run("kernel", {}))

    def attention(self, profile: Profile) -> Arithmetic:
        """Compare flex attention at the profile's head size, forward and backward, with plain attention."""
        return Arithmetic(**self.run("attention", {"context": profile.context, "head": profile.knobs["HEAD_DIM"]}))

    def cap_refused(self) -> bool:
        """Return whether an allocation of twice a cap is refused."""
        return bool(self.run("cap", {})["refused"])

    def training(self, profile: Profile, batch: int, cap_mib: int | None) -> Training:
        """Train some steps with batches of that many rows. Raises also TooLittleMemory."""
        script = set_knobs(render_subject(profile)["train.py"], {"DEVICE_BATCH_SIZE": batch})
        (self._folder / "train.py").write_text(script, encoding="utf-8")
        orders = {
            "folder": str(self._folder),
            "context": profile.context,
            "vocab": profile.vocab_size,
            "steps": STEPS,
            "uncounted": profile.budget.warmup_steps,
            "rows": SCORED_ROWS,
            "cap_mib": cap_mib,
        }
        return training_of(self.run("training", orders))

    def run(self, name: str, orders: Mapping[str, Any]) -> dict[str, Any]:
        """Run a measurement of `gpu_measurements` in a process of its own. Raises MeasurementFailed."""
        caches = {
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # as the driver counts
            "TORCHINDUCTOR_CACHE_DIR": str(self._folder / "inductor"),
            "TRITON_CACHE_DIR": str(self._folder / "triton"),
        }
        try:
            ended = subprocess.run(
                python_command("services.doctor.gpu_measurements", name, json.dumps(orders)),
                cwd=self._folder,
                env=environment(Program.PYTHON, caches),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=_MEASUREMENT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise MeasurementFailed(f"{name} gave no result in {error.timeout:g} s", _DOCTOR) from error
        lines = ended.stdout.splitlines()
        if ended.returncode or not lines or not lines[-1].startswith(RESULT_MARK):
            reason = (ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"])[-1]
            raise MeasurementFailed(f"{name} failed: {reason}", _DOCTOR)
        measured: dict[str, Any] = json.loads(lines[-1].removeprefix(RESULT_MARK))
        return measured

    def sandbox_fault(self) -> str | None:
        """Return why a candidate in the sandbox cannot use the GPU, or None."""
        self._state.make()
        for folder in (self._state.data, self._state.trials, self._state.work):
            folder.mkdir(parents=True, exist_ok=True)
        try:
            user = acquire(self._state.work, self._state.data, AUTO)
        except (WorkFolderRefused, NotSwept) as refusal:
            raise MeasurementFailed(str(refusal), "then the same command again") from refusal
        try:
            config = WorkerConfig(self._state.data, self._state.trials, self._state.work, user=user.user)
            return check_sandbox(config, None).gpu_fault
        except Unsafe as error:
            raise MeasurementFailed(str(error), _DOCTOR) from error
        finally:
            user.release()

    def load_llm(self, profile: Profile, gpu: InstalledGpu) -> LlmLoad:
        """Load the LLM completely onto the GPU, and compare the driver's used memory before and after."""
        if self._settings.get("LLM", "ollama") != "ollama":
            raise NotMeasurable(f"LLM={self._settings['LLM']} takes no memory of this GPU", _DOCTOR)
        placement = placement_for(profile.name)
        self._llm = OllamaSettings(
            host=self._settings.get("OLLAMA_HOST", ""),
            model=self._settings.get("MODEL") or placement.model,
            num_ctx=self._num_ctx(placement.num_ctx),
            num_batch=placement.num_batch,
            num_predict=_ANSWER_TOKENS,
            on_gpu=True,
        )
        before_mib = self.sensors(gpu).used_mib
        residence = Residence(self._llm)

        async def load(client: httpx.AsyncClient) -> LlmLoad | None:
            await residence.load(client)
            found, after_mib = await residence.find(client), self.sensors(gpu).used_mib
            if found is None or self._llm is None:
                return None
            sizes = found.size // _MIB, found.on_gpu // _MIB, after_mib - before_mib
            return LlmLoad(found.name, self._llm.num_ctx, *sizes)

        if (loaded := self._ask(load)) is None:
            raise MeasurementFailed("Ollama does not list the model that it has loaded", "restart Ollama")
        return loaded

    def _num_ctx(self, usual: int) -> int:
        text = self._settings.get("NUM_CTX") or str(usual)
        if (fault := TABLE["NUM_CTX"].fault_of(text)) is not None:
            raise MeasurementFailed(f"NUM_CTX: {fault.found}", fault.next_step)
        return int(text)

    def llm_answers(self) -> bool:
        """Return whether the loaded LLM gives a text."""
        assert self._llm is not None, "the LLM is loaded"
        question = self._llm.call | {"messages": [{"role": "user", "content": "Say yes."}]}

        async def answer(client: httpx.AsyncClient) -> bool:
            found = await client.post("/api/chat", json=question)
            lines = found.text.splitlines() if found.status_code == httpx.codes.OK else []
            return any(json.loads(line).get("done") for line in lines)

        return self._ask(answer)

    def unload_llm(self) -> None:
        """Unload the LLM, and wait for it."""
        assert self._llm is not None, "the LLM is loaded"
        self._ask(Residence(self._llm).unload)

    def _ask(self, question: Callable[[httpx.AsyncClient], Awaitable[Value]]) -> Value:
        """Ask Ollama. Raises NotMeasurable without a server, and MeasurementFailed."""
        assert self._llm is not None, "the LLM is known"
        url = self._llm.url

        async def asked() -> Value:
            async with httpx.AsyncClient(base_url=url, timeout=_ANSWER_S, trust_env=False) as client:
                return await question(client)

        try:
            return asyncio.run(asked())
        except httpx.ConnectError as error:
            raise NotMeasurable(f"no Ollama answers at {url}: its memory is computed", "start Ollama") from error
        except (httpx.HTTPError, LlmUnavailable) as error:
            raise MeasurementFailed(str(error) or type(error).__name__, "look at the log of Ollama") from error

    def sensors(self, gpu: InstalledGpu) -> Sensors:
        """Return the state of the GPU as the driver says it."""
        try:
            return ask_driver(lambda: _sensors(gpu.uuid), _NVML_S)
        except pynvml.NVMLError as error:
            raise MeasurementFailed(f"NVIDIA's driver fails: {error}", "repair the driver") from error


@contextlib.contextmanager
def this_gpu_machine(state: State, settings: Mapping[str, str]) -> Iterator[ThisMachine]:
    """Give this machine, with a folder for the time of the examination."""
    with tempfile.TemporaryDirectory(prefix="overnight-gpu-check-") as folder:
        yield ThisMachine(state, settings, Path(folder))


def _sensors(uuid: str) -> Sensors:
    handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
    reasons = _supported(lambda: pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle)) or 0
    return Sensors(
        used_mib=pynvml.nvmlDeviceGetMemoryInfo(handle).used // _MIB,
        clock_mhz=_supported(lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM)),
        most_clock_mhz=_supported(lambda: pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_SM)),
        temperature_c=_supported(lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)),
        throttled=tuple(name for bit, name in _THROTTLING.items() if reasons & bit),
    )


def _supported(question: Callable[[], int]) -> int | None:
    """Return the driver's answer, or None if it does not know the question."""
    try:
        return question()
    except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_FunctionNotFound):
        return None
