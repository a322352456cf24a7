"""The default subject on a bench: rendered with other start values, loaded in parts, or run whole as a process."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from researcher.source.knobs import set_knobs
from trainer.jobs.profile import KnobValue

SOURCE = Path(__file__).parents[2] / "trainer" / "subject"
TINY_KNOBS: dict[str, KnobValue] = {
    "DEPTH": 2,
    "ASPECT_RATIO": 32,
    "HEAD_DIM": 16,
    "DEVICE_BATCH_SIZE": 16,
    "TOTAL_BATCH_SIZE": 2**10,
}
TINY_CONSTANTS: dict[str, KnobValue] = {"MAX_SEQ_LEN": 32, "TIME_BUDGET": 2, "VOCAB_SIZE": 48}


@dataclass(frozen=True)
class Bench:
    """A rendered subject in its own folder, with the data it trains on."""

    folder: Path
    data: Path

    @classmethod
    def render(
        cls, folder: Path, data: Path, knobs: Mapping[str, KnobValue], constants: Mapping[str, KnobValue]
    ) -> Bench:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "train.py").write_text(set_knobs((SOURCE / "train.py").read_text(), knobs))
        (folder / "prepare.py").write_text(set_knobs((SOURCE / "prepare.py").read_text(), constants))
        return cls(folder, data)

    def edit(self, search: str, replacement: str) -> None:
        """One search/replace pair, as a model would give it."""
        path = self.folder / "train.py"
        assert path.read_text().count(search) == 1
        path.write_text(path.read_text().replace(search, replacement))

    def run(self, *options: str) -> subprocess.CompletedProcess[str]:
        """`python train.py` by hand."""
        return subprocess.run(
            [sys.executable, *options, "train.py"],
            cwd=self.folder,
            env=os.environ | {"OVERNIGHT_DATA": str(self.data), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def prepare(self, monkeypatch: pytest.MonkeyPatch, *, seed: int = 42) -> ModuleType:
        """prepare.py as a module of its own, with its data and its seed."""
        monkeypatch.setenv("OVERNIGHT_DATA", str(self.data))
        monkeypatch.setenv("OVERNIGHT_SEED", str(seed))
        spec = importlib.util.spec_from_file_location("prepare", self.folder / "prepare.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "prepare", module)
        spec.loader.exec_module(module)
        return module

    def definitions(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
        """Knobs, classes and functions of train.py: all that stands before its set-up."""
        self.prepare(monkeypatch)
        text, marker, _ = (self.folder / "train.py").read_text().partition("# Set-up\n")
        assert marker
        names: dict[str, Any] = {"__name__": "train"}
        exec(compile(text, str(self.folder / "train.py"), "exec"), names)
        return names
