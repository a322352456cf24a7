"""`overnight gpu-check`: each fault of a machine is one line with its repair, and the settings follow from what it is.

What runs on a GPU runs here on the processor, or not at all: flex attention backward and the cap need a GPU.
"""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from researcher.llm.gpu_memory_split import margin_mib
from services import cli
from services.doctor import Severity, gpu_report
from services.doctor.gpu_check import GpuMachine, MeasurementFailed, NotMeasurable, check_gpu, training_of
from services.doctor.gpu_check_command import (
    REPORT,
    GpuUnfit,
    NotWritten,
    check_before_run,
    run_gpu_check,
    write_settings,
)
from services.doctor.gpu_machine import ThisMachine
from services.doctor.gpu_report import GpuReport, LlmLoad, Sensors, json_of, minutes, reserved_mib, text_of
from services.machine.gpu_env import GPU_ENV, LOCAL, read
from services.machine.state import State
from tests.doubles import gpu_machines as machines
from tests.doubles.nvml import NO_LIBRARY, NvmlGpu, NvmlLibrary, install_nvml
from tests.doubles.ollama_server import OllamaDouble, ollama_double
from trainer.jobs import profile_named

AT = datetime(2026, 12, 1, 7, 0, tzinfo=UTC)


def checked(machine: GpuMachine, profile: str | None = None, **environment: str) -> GpuReport:
    return check_gpu(machine, environment, None if profile is None else profile_named(profile), AT, lambda _: None)


def severity(report: GpuReport, name: str) -> Severity:
    return next(each.severity for each in report.findings if each.name == name)


def test_sound_machine_gets_no_fault_the_duration_of_a_trial_and_the_settings() -> None:
    report = checked(machines.SoundMachine())

    assert {each.severity for each in report.findings} == {Severity.OK}
    assert report.exit_code == 0
    assert report.profile.name == "24gb"
    assert report.trial_s == pytest.approx(12 + 50 + 10 * 0.5 + 300 + 20 + 2048 * 0.05)
    assert report.summary == "A trial will take about 8:09, 58 in 8 hours, 8.8 GiB of 13.0."
    assert report.settings == {
        "PROFILE": "24gb",
        "TRAINER_CAP_MIB": str(24564 - 9216 - margin_mib(24564)),
        "MODEL": "qwen3.5:9b",
        "NUM_CTX": "16384",
        "LLM_RESERVE_MIB": "9216",
    }


FAULTS: list[tuple[type[machines.SoundMachine], str, Severity, str]] = [
    (machines.NoGpu, "driver", Severity.FAIL, "no NVIDIA GPU"),
    (machines.BrokenDriver, "driver", Severity.FAIL, "version mismatch"),
    (machines.OldDriver, "driver", Severity.FAIL, "470.82.01"),
    (machines.OldGpu, "driver", Severity.FAIL, "6.1"),
    (machines.SmallGpu, "profile", Severity.FAIL, "4096 MiB"),
    (machines.LittleHostMemory, "memory", Severity.FAIL, "7.6 GiB"),
    (machines.FewCores, "cores", Severity.WARN, "2"),
    (machines.FullDisk, "disk", Severity.FAIL, "3.0 GiB"),
    (machines.NoKernelForThisGpu, "kernel", Severity.FAIL, "no kernel image"),
    (machines.TorchWithoutCuda, "kernel", Severity.FAIL, "2.13.0+cpu sees no GPU"),
    (machines.WrongKernel, "kernel", Severity.FAIL, "nan"),
    (machines.NoFlexAttention, "attention", Severity.FAIL, "shared memory"),
    (machines.WrongGradients, "attention", Severity.FAIL, "7.0e-01"),
    (machines.BlindSandbox, "sandbox", Severity.FAIL, "NO_DEVICE"),
    (machines.OpenSandbox, "sandbox", Severity.FAIL, "validation text"),
    (machines.NoOllama, "LLM", Severity.SKIP, "no Ollama"),
    (machines.SpillingOllama, "LLM", Severity.FAIL, "5000 of 8200 MiB"),
    (machines.GreedyOllama, "split", Severity.FAIL, "does not fit"),
    (machines.OllamaThatDiesBesideTheTrainer, "beside", Severity.FAIL, "no longer answers"),
    (machines.StickyOllama, "unload", Severity.FAIL, "still holds"),
    (machines.SlowCompiler, "compile", Severity.FAIL, "95 s cold"),
    (machines.SlowScoring, "scoring", Severity.FAIL, "2048 rows in 430 s"),
    (machines.TooSmallForTheBatch, "training", Severity.FAIL, "does not fit"),
    (machines.IgnoredCap, "cap", Severity.FAIL, "succeeds"),
    (machines.HotGpu, "clocks", Severity.WARN, "91"),
    (machines.ThrottledGpu, "clocks", Severity.WARN, "power limit"),
    (machines.SilentSensors, "clocks", Severity.OK, "unknown"),
]


@pytest.mark.parametrize(("machine", "name", "expected", "text"), FAULTS, ids=[each[0].__name__ for each in FAULTS])
def test_each_fault_is_one_line_that_names_it_and_its_repair(
    machine: type[machines.SoundMachine], name: str, expected: Severity, text: str
) -> None:
    report = checked(machine())

    (finding,) = [each for each in report.findings if each.name == name]
    assert finding.severity is expected
    assert text in finding.found
    assert [each.name for each in report.findings if each.severity not in (Severity.OK, Severity.SKIP)] == (
        [] if expected in (Severity.OK, Severity.SKIP) else [name]
    )
    assert report.exit_code == (expected is Severity.FAIL)
    if expected is Severity.FAIL:
        assert finding.fix
        assert finding.found in report.summary
        assert report.settings == {}


def test_hidden_gpu_is_named_as_hidden() -> None:
    report = checked(machines.SoundMachine(), CUDA_VISIBLE_DEVICES="")

    assert "hides every GPU" in report.summary


@pytest.mark.parametrize(
    "machine", [machines.NoGpu, machines.OldDriver, machines.TorchWithoutCuda, machines.WrongKernel]
)
def test_nothing_is_loaded_where_nothing_can_be_measured(machine: type[machines.SoundMachine]) -> None:
    double = machine()

    checked(double)

    assert {"load", "attention"} & set(double.calls) == set()


def test_largest_batch_is_the_last_that_fits_in_a_step_of_the_same_size() -> None:
    double = machines.SoundMachine()

    assert checked(double, "48gb").measured.largest_batch == 64
    assert double.calls.count("train 128") == 1
    assert checked(machines.SoundMachine(), "24gb").measured.largest_batch == 32


@pytest.mark.parametrize(
    ("profile", "order"), [("24gb", ["load", "train", "unload"]), ("16gb", ["load", "unload", "train"])]
)
def test_llm_leaves_before_training_only_where_it_does_in_a_run(profile: str, order: list[str]) -> None:
    double = machines.SoundMachine()

    checked(double, profile)

    seen = [call.partition(" ")[0] for call in double.calls]
    assert [call for call in dict.fromkeys(seen) if call in order] == order


def test_without_an_llm_the_computed_reserve_counts_and_no_setting_of_it_is_written() -> None:
    report = checked(machines.NoOllama())

    assert report.settings == {"PROFILE": "24gb", "TRAINER_CAP_MIB": str(24564 - 10240 - margin_mib(24564))}


@pytest.mark.parametrize(("taken", "reserved"), [(1, 256), (8700, 9216), (0, 0), (9752, 10240)])
def test_reserve_is_a_twentieth_above_the_measured_memory_and_rounded_up(taken: int, reserved: int) -> None:
    assert reserved_mib(taken) == reserved


def test_durations_are_minutes_and_seconds() -> None:
    assert [minutes(value) for value in (0, 59.6, 500, 3600)] == ["0:00", "1:00", "8:20", "60:00"]


def test_text_and_json_say_the_same() -> None:
    report = checked(machines.ThrottledGpu())

    text, document = text_of(report), json.loads(json_of(report))

    assert text.splitlines()[-1] == document["summary"] == report.summary
    assert all(each["found"] in text for each in document["findings"])
    assert all(f"{name}={value}" in text for name, value in document["settings"].items())
    assert document["measured"]["cold"]["step_s"] == 0.5
    assert document["measured"]["sensors"]["throttled"] == ["power limit"]


def test_json_has_null_for_a_number_that_it_cannot_hold() -> None:
    document = json.loads(json_of(checked(machines.WrongKernel())), parse_constant=pytest.fail)

    assert document["measured"]["kernel"]["difference"] is None


def test_settings_are_written_once_and_only_to_a_clone(tmp_path: Path) -> None:
    report = checked(machines.SoundMachine())

    assert write_settings(tmp_path, report) == ""
    (tmp_path / GPU_ENV).touch()
    assert write_settings(tmp_path, checked(machines.IgnoredCap())) == ""
    assert "written" in write_settings(tmp_path, report)
    written = (tmp_path / LOCAL).read_text()
    assert read(written, LOCAL).values() == report.settings
    assert "left as it is" in write_settings(tmp_path, checked(machines.NoOllama()))
    assert (tmp_path / LOCAL).read_text() == written


def test_machine_without_a_gpu_gets_its_report_and_exit_code_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_nvml(monkeypatch, NO_LIBRARY)
    console = Console(record=True, width=400)

    code = run_gpu_check(State(tmp_path / "state"), None, tmp_path / "gpu.json", console)

    assert code == 1
    assert "No GPU can be used here: driver: no NVIDIA GPU, or no driver" in console.export_text()
    assert json.loads((tmp_path / "gpu.json").read_text())["gpu"] is None
    with pytest.raises(NotWritten):
        run_gpu_check(State(tmp_path / "state"), None, tmp_path / "missing" / "gpu.json", console)


def test_training_and_scoring_are_measured_on_the_text_that_the_command_carries(tmp_path: Path) -> None:
    machine = ThisMachine(State(tmp_path / "state"), {}, tmp_path)
    profile = profile_named("cpu")

    found = machine.training(profile, 2, None)

    assert found.batch == 2
    assert min(found.setup_s, found.step_s, found.first_answer_s, found.row_s) > 0
    assert found.peak_mib is None
    kernel = machine.kernel()
    assert (kernel.device, kernel.difference < 0.02) == ("cpu", True)


def test_process_that_fails_or_has_no_memory_is_named(tmp_path: Path) -> None:
    machine = ThisMachine(State(tmp_path / "state"), {}, tmp_path)

    with pytest.raises(MeasurementFailed, match=r"cap failed: .*CUDA"):
        machine.cap_refused()
    with pytest.raises(Exception, match="does not fit"):
        training_of({"out_of_memory": True})


class SharedGpu(NvmlLibrary):
    """A GPU whose used memory grows with what an Ollama holds, and with 400 MiB for its context."""

    def __init__(self, ollama: OllamaDouble) -> None:
        super().__init__()
        self.ollama = ollama

    def nvmlDeviceGetHandleByUUID(self, uuid: Any, handle: Any) -> int:  # noqa: N802
        held = self.ollama.held
        used_mib = 900 + (0 if held is None else 400 + held.on_gpu // 2**20)
        self.gpus = [NvmlGpu("RTX", 24564, uuid=machines.RTX.uuid, used_mib=used_mib)]
        return super().nvmlDeviceGetHandleByUUID(uuid, handle)


def test_memory_of_the_llm_is_what_the_driver_sees_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ollama_double(["yes"]) as ollama:
        install_nvml(monkeypatch, SharedGpu(ollama))
        settings = {"OLLAMA_HOST": ollama.url, "MODEL": "small"}
        machine = ThisMachine(State(tmp_path / "state"), settings, tmp_path)

        load = machine.load_llm(profile_named("24gb"), machines.RTX)

        assert load == LlmLoad("small:latest", 16384, 9216, 9216, taken_mib=9616)
        assert machine.llm_answers()
        machine.unload_llm()
        assert machine.sensors(machines.RTX) == Sensors(900)


def test_llm_elsewhere_and_an_absent_ollama_are_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_nvml(monkeypatch, NvmlLibrary([NvmlGpu("RTX", 24564, uuid=machines.RTX.uuid)]))
    profile, state = profile_named("24gb"), State(tmp_path / "state")

    with pytest.raises(NotMeasurable, match="LLM=none"):
        ThisMachine(state, {"LLM": "none"}, tmp_path).load_llm(profile, machines.RTX)
    with pytest.raises(MeasurementFailed, match="NUM_CTX"):
        ThisMachine(state, {"NUM_CTX": "many"}, tmp_path).load_llm(profile, machines.RTX)
    with pytest.raises(NotMeasurable, match="no Ollama answers"):
        ThisMachine(state, {"OLLAMA_HOST": "http://127.0.0.1:9"}, tmp_path).load_llm(profile, machines.RTX)


def before_run(state: State, machine: machines.SoundMachine, profile: str = "24gb") -> str:
    text = io.StringIO()
    check_before_run(state, machine, profile_named(profile), {}, Console(file=text, width=200))
    return text.getvalue()


def test_gpu_is_measured_before_the_first_run_and_not_again_while_nothing_has_changed(tmp_path: Path) -> None:
    state = State(tmp_path / "state")

    assert "A trial will take about" in before_run(state, machines.SoundMachine())
    again = machines.SoundMachine()
    assert before_run(state, again) == ""
    assert again.calls == []
    assert "A trial will take about" in before_run(state, machines.SoundMachine(), "12gb"), "another profile"


def test_gpu_is_measured_again_if_the_kept_report_is_damaged(tmp_path: Path) -> None:
    state = State(tmp_path / "state")
    before_run(state, machines.SoundMachine())
    (state.root / REPORT).write_bytes(b"[\xff")

    assert "A trial will take about" in before_run(state, machines.SoundMachine())
    assert before_run(state, machines.SoundMachine()) == ""


def test_run_on_an_unfit_gpu_is_refused_with_the_first_fault_each_time(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(GpuUnfit, match=r"A run on this GPU would fail: kernel: .*--skip-gpu-check"):
            before_run(State(tmp_path / "state"), machines.WrongKernel())


def test_local_run_on_a_gpu_that_torch_cannot_use_is_refused_before_anything_is_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver is a double that shows a GPU; torch is the real one, for processors. This machine may be small."""
    for limit in ("LEAST_CORES", "LEAST_MEMORY_GIB", "LEAST_DISK_GIB"):
        monkeypatch.setattr(gpu_report, limit, 0)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    install_nvml(monkeypatch, NvmlLibrary([NvmlGpu("NVIDIA H100 80GB HBM3", 81559)]))

    answer = CliRunner().invoke(
        cli.app, ["run", "--state", str(tmp_path / "state"), "--profile", "80gb", "--llm", "none"]
    )

    assert isinstance(answer.exception, GpuUnfit), answer.output
    assert "sees no GPU" in str(answer.exception)
    assert not (tmp_path / "state" / "data" / "manifest.json").exists()
