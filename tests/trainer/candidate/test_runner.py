"""The cap of a GPU's memory inside the candidate's process. No GPU was used: `GpuOf48Gib` stands for torch.cuda and
only notes what is asked of it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from trainer.candidate.runner import _device_facts, memory_fraction, run_script
from trainer.sandbox.layers import write_files


class GpuOf48Gib:
    """What the runner asks of torch.cuda, on a GPU that is not there."""

    def __init__(self) -> None:
        self.fraction: float | None = None

    def is_available(self) -> bool:
        return True

    def get_device_properties(self, device: int) -> SimpleNamespace:
        return SimpleNamespace(name="GPU of a test", total_memory=48 * 2**30)

    def set_per_process_memory_fraction(self, fraction: float) -> None:
        self.fraction = fraction


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> GpuOf48Gib:
    gpu = GpuOf48Gib()
    monkeypatch.setattr(torch, "cuda", gpu)
    return gpu


@pytest.mark.parametrize(("cap_mib", "fraction"), [(None, None), (12_888, 0.25), (601, 1 / (48 * 1024)), (90_000, 1.0)])
def test_torch_gets_the_cap_less_what_cuda_itself_takes(
    cap_mib: int | None, fraction: float | None, gpu: GpuOf48Gib
) -> None:
    said = _device_facts(cap_mib)

    assert gpu.fraction == fraction
    assert (said.x, said.text) == (48 * 1024, f"{torch.__version__}|GPU of a test")


@pytest.mark.parametrize("cap_mib", [0, 600])
def test_cap_that_cuda_alone_fills_is_refused(cap_mib: int) -> None:
    with pytest.raises(ValueError, match=f"a cap of {cap_mib} MiB .* leaves none"):
        memory_fraction(cap_mib, 48 * 1024)


HIDDEN = "# -*- coding: utf-7 -*-\n# higher+AAo-seen.append('utf-7')\nseen.append('text')\n"


@pytest.mark.parametrize(
    "source",
    [
        HIDDEN,
        HIDDEN.replace("utf-7", "utf_7", 1),
        "# coding: raw_unicode_escape\n# \\u000aseen.append('hidden')\nseen.append('text')\n",
        # annotations are no texts, as they would be if a script inherited our own import from __future__
        "def f(x: int): pass\nif f.__annotations__['x'] is int: seen.append('text')\n",
    ],
)
def test_a_script_runs_as_its_text_reads_whatever_encoding_it_declares(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [])
    for module in ("__main__", "prepare"):
        monkeypatch.setitem(sys.modules, module, ModuleType(module))
    write_files(str(tmp_path), {"train.py": source, "prepare.py": f"{source.replace('seen', 'SEEN')}"})
    monkeypatch.setattr("builtins.SEEN", seen, raising=False)
    script = ModuleType("__main__")
    script.__dict__["seen"] = seen

    run_script(lambda _: None, script)

    assert seen == ["text", "text"]


def test_files_are_written_byte_for_byte(tmp_path: Path) -> None:
    text = "a = '''\r\nb\r'''\n\x0c\r\n"

    write_files(str(tmp_path), {"train.py": text})

    assert (tmp_path / "train.py").read_bytes().decode() == text
