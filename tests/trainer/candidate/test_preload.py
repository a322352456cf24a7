"""What is imported before a script's first line: what it imports itself, and nothing of its own."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from trainer.candidate.preload import preload, wanted


@pytest.mark.parametrize(
    ("source", "gpu", "modules"),
    [
        ("import json, zlib.x\nfrom os import path", False, ["json", "zlib.x", "os"]),
        ("try:\n    import a\nexcept ImportError:\n    import b", False, ["a", "b"]),
        ("def f():\n    import a", False, []),
        ("class C:\n    import a", False, ["a"]),
        ("if CUDA:\n    import a", False, []),
        ("if CUDA:\n    import a", True, ["a"]),
        ("from . import a", False, []),
        ("import torch\ndef f(p):\n    return torch.optim.SGD(p)", False, ["torch", "torch._dynamo"]),
        ("from torch import optim", False, ["torch", "torch._dynamo"]),
        ("from torch.optim import AdamW", False, ["torch.optim", "torch._dynamo"]),
        ("m = torch.compile(m)", False, ["torch._dynamo", "torch._inductor.compile_fx"]),
        ("def broken(:", False, []),
        ("x = " + "-" * 100_000 + "1", False, []),
        ("x = " + "+".join("1" * 3_000), False, []),
    ],
)
def test_modules_are_those_that_are_imported_at_once(source: str, gpu: bool, modules: list[str]) -> None:
    assert wanted(source.encode(), has_gpu=gpu) == modules


@pytest.mark.parametrize("error", ["ImportError", "OSError", "RuntimeError", "AttributeError"])
def test_a_module_that_fails_is_left_to_the_script_which_may_catch_it(
    error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "installed"
    installed.mkdir()
    (installed / "needs_a_driver.py").write_text(f"raise {error}('no driver')")
    monkeypatch.setattr(sys, "path", [*sys.path, str(installed)])

    preload(b"import needs_a_driver", tmp_path / "subject", has_gpu=False)

    with pytest.raises(Exception, match="no driver"):
        importlib.import_module("needs_a_driver")


def test_no_file_of_the_candidate_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("own", "colorsys", "package/__init__"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.py").write_text("raise SystemExit('it ran')")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    sys.modules.pop("colorsys", None)

    preload(b"import own, colorsys, package.part, no_such_module, graphlib", tmp_path, has_gpu=False)

    assert "graphlib" in sys.modules
    assert "colorsys" not in sys.modules
    assert sys.path[0] == str(tmp_path)
