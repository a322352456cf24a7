"""Machines with a GPU that `gpu-check` examines, without one: a sound machine, and others named for their fault.

The values are invented in the range of a GPU with 24 GB. No GPU has given them.
"""

from __future__ import annotations

from dataclasses import replace

from services.doctor.gpu_check import MeasurementFailed, NotMeasurable, TooLittleMemory
from services.doctor.gpu_report import Arithmetic, Host, LlmLoad, Sensors, Training
from services.machine.gpus import Gpu, GpuFault, InstalledGpu
from trainer.jobs import Profile

RTX = InstalledGpu("GPU-44444444", "580.95.05", Gpu("NVIDIA GeForce RTX 4090", 24564), (8, 9))
FITS = 64


class SoundMachine:
    """A machine on which everything works. `calls` are the measurements that were taken, in order."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def installed_gpus(self) -> list[InstalledGpu]:
        return [RTX]

    def host(self) -> Host:
        return Host(62.7, 16, 410.0)

    def kernel(self) -> Arithmetic:
        self.calls.append("kernel")
        return Arithmetic("2.13.0", "cuda", 0.003)

    def attention(self, profile: Profile) -> Arithmetic:
        self.calls.append("attention")
        return Arithmetic("2.13.0", "cuda", 0.006)

    def sandbox_fault(self) -> str | None:
        return None

    def load_llm(self, profile: Profile, gpu: InstalledGpu) -> LlmLoad:
        self.calls.append("load")
        return LlmLoad("qwen3.5:9b", 16384, 8200, 8200, 8700)

    def llm_answers(self) -> bool:
        return True

    def unload_llm(self) -> None:
        self.calls.append("unload")

    def training(self, profile: Profile, batch: int, cap_mib: int | None) -> Training:
        self.calls.append(f"train {batch}")
        if batch > FITS:
            raise TooLittleMemory("the batch does not fit", "a smaller one")
        cold = self.calls.count(f"train {batch}") == 1
        return Training(batch, 12.0, 50.0 if cold else 8.0, 0.5, 20.0, 0.05, 9000)

    def cap_refused(self) -> bool:
        self.calls.append("cap")
        return True

    def sensors(self, gpu: InstalledGpu) -> Sensors:
        return Sensors(900, 2520, 2520, 64)


class NoGpu(SoundMachine):
    def installed_gpus(self) -> list[InstalledGpu]:
        return []


class BrokenDriver(SoundMachine):
    def installed_gpus(self) -> list[InstalledGpu]:
        raise GpuFault("NVIDIA's driver fails: Driver/library version mismatch", "reboot")


class OldDriver(SoundMachine):
    def installed_gpus(self) -> list[InstalledGpu]:
        return [RTX._replace(driver="470.82.01")]


class OldGpu(SoundMachine):
    def installed_gpus(self) -> list[InstalledGpu]:
        return [RTX._replace(capability=(6, 1))]


class SmallGpu(SoundMachine):
    def installed_gpus(self) -> list[InstalledGpu]:
        return [RTX._replace(gpu=Gpu("NVIDIA GeForce GTX 1650", 4096))]


class LittleHostMemory(SoundMachine):
    def host(self) -> Host:
        return replace(super().host(), memory_gib=7.6)


class FewCores(SoundMachine):
    def host(self) -> Host:
        return replace(super().host(), cores=2)


class FullDisk(SoundMachine):
    def host(self) -> Host:
        return replace(super().host(), disk_gib=3.0)


class NoKernelForThisGpu(SoundMachine):
    def kernel(self) -> Arithmetic:
        raise MeasurementFailed("kernel failed: no kernel image is available for execution", "overnight doctor")


class TorchWithoutCuda(SoundMachine):
    def kernel(self) -> Arithmetic:
        return Arithmetic("2.13.0+cpu", "cpu", 0.003)


class WrongKernel(SoundMachine):
    def kernel(self) -> Arithmetic:
        return Arithmetic("2.13.0", "cuda", float("nan"))


class NoFlexAttention(SoundMachine):
    def attention(self, profile: Profile) -> Arithmetic:
        raise MeasurementFailed("attention failed: out of resource: shared memory", "overnight doctor")


class WrongGradients(SoundMachine):
    def attention(self, profile: Profile) -> Arithmetic:
        return Arithmetic("2.13.0", "cuda", 0.7)


class BlindSandbox(SoundMachine):
    def sandbox_fault(self) -> str | None:
        return "CUDA_ERROR_NO_DEVICE"


class OpenSandbox(SoundMachine):
    def sandbox_fault(self) -> str | None:
        raise MeasurementFailed("a candidate here could read the validation text", "overnight doctor")


class NoOllama(SoundMachine):
    def load_llm(self, profile: Profile, gpu: InstalledGpu) -> LlmLoad:
        raise NotMeasurable("no Ollama answers", "start it")


class SpillingOllama(SoundMachine):
    def load_llm(self, profile: Profile, gpu: InstalledGpu) -> LlmLoad:
        return replace(super().load_llm(profile, gpu), on_gpu_mib=5000)


class GreedyOllama(SoundMachine):
    def load_llm(self, profile: Profile, gpu: InstalledGpu) -> LlmLoad:
        return replace(super().load_llm(profile, gpu), taken_mib=15000)


class OllamaThatDiesBesideTheTrainer(SoundMachine):
    def llm_answers(self) -> bool:
        return False


class StickyOllama(SoundMachine):
    def unload_llm(self) -> None:
        raise MeasurementFailed("Ollama still holds its model", "restart Ollama")


class SlowCompiler(SoundMachine):
    def training(self, profile: Profile, batch: int, cap_mib: int | None) -> Training:
        return replace(super().training(profile, batch, cap_mib), compile_s=95.0)


class SlowScoring(SoundMachine):
    def training(self, profile: Profile, batch: int, cap_mib: int | None) -> Training:
        return replace(super().training(profile, batch, cap_mib), row_s=0.2)


class TooSmallForTheBatch(SoundMachine):
    def training(self, profile: Profile, batch: int, cap_mib: int | None) -> Training:
        raise TooLittleMemory("the batch does not fit into the memory of the GPU", "choose a smaller profile")


class IgnoredCap(SoundMachine):
    def cap_refused(self) -> bool:
        return False


class HotGpu(SoundMachine):
    def sensors(self, gpu: InstalledGpu) -> Sensors:
        return Sensors(900, 1410, 2520, 91)


class ThrottledGpu(SoundMachine):
    def sensors(self, gpu: InstalledGpu) -> Sensors:
        return Sensors(900, 1410, 2520, 70, ("power limit",))


class SilentSensors(SoundMachine):
    def sensors(self, gpu: InstalledGpu) -> Sensors:
        return Sensors(900)
