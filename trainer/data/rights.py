"""Sets the modes of a data folder: all users may read training data, only the owner may read data that score.

Candidates run under another uid. The modes are set whatever the umask was, and also on data of earlier versions.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from trainer.data.manifest import MANIFEST, ROWS, STAND_IN, TOKEN_BYTES, TOKENIZER


def give_rights(folder: Path) -> None:
    """Set the modes of all files of a prepared folder."""
    _set(folder, 0o755)
    for name in (MANIFEST, TOKENIZER, STAND_IN, TOKEN_BYTES, ROWS["train"]):
        if (folder / name).exists():  # data of a user's own prepare.py have no tokenizer file
            _set(folder / name, 0o644)
    for parent, _, files in os.walk(folder / "private"):
        _set(Path(parent), 0o700)
        for name in files:
            _set(Path(parent, name), 0o600)


def _set(path: Path, mode: int) -> None:
    """Set a mode unless it is right already, because only the owner could set it."""
    if stat.S_IMODE(path.stat().st_mode) != mode:
        path.chmod(mode)
