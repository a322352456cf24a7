"""A small disk for a folder: a tmpfs in a mount namespace that only this process and its children see."""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

import pytest

_CLONE_NEWNS = 0x20000


class Disk:
    """Fills up for real, and is read-only for real."""

    def __init__(self, folder: Path, size: str) -> None:
        """Skips the test where the kernel lets this user mount nothing."""
        if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS) != 0:
            pytest.skip(f"needs a mount namespace: {os.strerror(ctypes.get_errno())}")
        self.folder = folder
        self._filler = folder / "filler"
        folder.mkdir(exist_ok=True)
        _run("mount", "--make-rprivate", "/")
        _run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))

    def fill(self) -> None:
        """To the last page."""
        subprocess.run(["dd", "if=/dev/zero", f"of={self._filler}", "bs=4k"], check=False, capture_output=True)

    def free(self) -> None:
        """Somebody made room."""
        self._filler.unlink()

    def make_read_only(self) -> None:
        """As a failing disk is."""
        _run("mount", "-o", "remount,ro", str(self.folder))

    def make_writable(self) -> None:
        """Again."""
        _run("mount", "-o", "remount,rw", str(self.folder))

    def remove(self) -> None:
        """Also while somebody has it open."""
        _run("umount", "--lazy", str(self.folder))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
