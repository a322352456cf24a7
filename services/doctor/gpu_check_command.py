"""The command `overnight gpu-check`: examines this machine, prints the report, writes it and the settings."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from rich.console import Console

from researcher.errors import OvernightError
from researcher.files import write_whole
from services.doctor.gpu_check import GpuMachine, check_gpu
from services.doctor.gpu_machine import this_gpu_machine
from services.doctor.gpu_report import GpuReport, json_of, text_of
from services.machine.gpu_env import GPU_ENV, LOCAL, render_local
from services.machine.gpus import visible_gpus
from services.machine.installation import ROOT, require
from services.machine.state import State
from trainer.jobs import Profile, profile_named

REPORT = "gpu-check.json"  # what the last sound report was about


class GpuUnfit(OvernightError):
    """A run on this GPU would fail."""


class NotWritten(OvernightError):
    """The file for the report cannot be written."""


def run_gpu_check(state: State, profile: str | None, json_file: Path | None, console: Console) -> int:
    """Examine the GPU and print the report. Returns 1 if a run would fail. Raises PackageMissing and NotWritten."""
    require("torch")
    wanted = None if profile is None else profile_named(profile)
    settings = {**state.settings(), **os.environ}
    with this_gpu_machine(state, settings) as machine:
        report = check_gpu(
            machine, os.environ, wanted, datetime.now(UTC), lambda step: console.print(f"measuring: {step}")
        )
    console.print(f"\n{text_of(report)}", soft_wrap=True, end="")
    if json_file is not None:
        try:
            json_file.write_text(json_of(report), encoding="utf-8")
        except OSError as error:
            raise NotWritten(f"cannot write {json_file}: {error.strerror}", "name another file: --json FILE") from error
    console.print(write_settings(ROOT, report), soft_wrap=True, end="")
    return report.exit_code


def check_before_run(
    state: State, machine: GpuMachine, profile: Profile, environment: Mapping[str, str], console: Console
) -> None:
    """Examine the GPU before a run, unless a run on the same GPU, driver, torch and profile was found possible before.

    The report is kept in the state folder. Raise GpuUnfit with the first fault and its repair.
    """
    gpu = next(iter(visible_gpus(machine.installed_gpus(), environment)), None)
    facts = [profile.name, version("torch"), *(() if gpu is None else (gpu.uuid, gpu.driver))]
    kept = state.root / REPORT
    if _examined(kept) == facts:
        return
    console.print("gpu-check before the first run here, about five minutes; to leave it out: --skip-gpu-check")
    report = check_gpu(
        machine, environment, profile, datetime.now(UTC), lambda step: console.print(f"measuring: {step}")
    )
    console.print(f"\n{text_of(report)}", soft_wrap=True, markup=False, end="")
    if report.exit_code:
        raise GpuUnfit(report.summary, "then the same command again; --skip-gpu-check starts the run all the same")
    state.make()
    write_whole(kept, json.dumps(facts).encode())


def _examined(kept: Path) -> object:
    """Return what the kept report was about, or None without a readable one."""
    try:
        return json.loads(kept.read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def write_settings(root: Path, report: GpuReport) -> str:
    """Write the settings to gpu.local.env of a clone, unless that file exists; return a sentence about it, or none."""
    if not report.settings or report.gpu is None or report.split is None or not (root / GPU_ENV).exists():
        return ""
    path = root / LOCAL
    if path.exists():
        return f"{LOCAL} is yours; left as it is\n"
    about = f"{report.gpu.gpu.name} ({report.gpu.gpu.memory_mib} MiB, {report.gpu.uuid}), measured"
    write_whole(path, render_local(report.settings, about, report.split.text()).encode())
    return f"settings written to {LOCAL}\n"
