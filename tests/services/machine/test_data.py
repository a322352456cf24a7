"""Preparing data in a terminal."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from rich.console import Console

from services.machine.data import prepare_data
from services.machine.installation import PackageMissing, installing
from trainer.jobs import profile_named


def test_the_missing_package_that_reads_shards_is_named_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    with pytest.raises(PackageMissing) as caught:
        prepare_data(profile_named("12gb"), tmp_path / "data", None, Console(file=io.StringIO()))

    assert caught.value.next_step == f"install it: {installing('pyarrow')}"
