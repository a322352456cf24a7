"""Who may read a data folder: every user what trains a candidate, only the preparing one what scores it.

Candidates run under another uid. Whatever the umask was, and whatever an earlier version made.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from trainer.data.manifest import MANIFEST, ROWS, STAND_IN, TOKEN_BYTES, TOKENIZER


def give_rights(folder: Path) -> None:
    """Set them on a prepared folder."""
    _set(folder, 0o755)
    for name in (MANIFEST, TOKENIZER, STAND_IN, TOKEN_BYTES, ROWS["train"]):
        if (folder / name).exists():  # data of a user's own have a stand-in instead of a tokenizer
            _set(folder / name, 0o644)
    for parent, _, files in os.walk(folder / "private"):
        _set(Path(parent), 0o700)
        for name in files:
            _set(Path(parent, name), 0o600)


def _set(path: Path, mode: int) -> None:
    """Left alone where it is right already: only its owner could set it."""
    if stat.S_IMODE(path.stat().st_mode) != mode:
        path.chmod(mode)
