"""A checkout of this repository whose third-party images are stand-ins: what ships is tested as it is, file by file.

Only lines of the one block in which images are pinned are swapped, the names of our own images (a test must not retag
the owner's), and the trainer's memory, so that a hog meets the container's limit rather than its own.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from tests import ROOT

BASE, REDIS = "overnight-test/python:3.11", "overnight-test/redis:8"  # from scripts/dev/docker-engine
OLLAMA = "overnight-test/ollama"
MEMORY = "3g"

SWAPPED = {
    "compose.yaml": [
        (r"&redis-image \S+", f"&redis-image {REDIS}"),
        (r"&ollama-image \S+", f"&ollama-image {OLLAMA}"),
        (r"&python-image \S+", f"&python-image {BASE}"),
        (r"image: overnight/", "image: overnight-test/"),
    ],
    "services/stack/results.py": [(r'f"overnight/', 'f"overnight-test/')],
    "services/compose.cpu.yaml": [(r"mem_limit: 6g", f"mem_limit: {MEMORY}\n    memswap_limit: {MEMORY}")],
}


def make_checkout(folder: Path) -> Path:
    """Tracked and new files as they are in the work tree, at `folder`."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    for name, swaps in SWAPPED.items():
        text = (folder / name).read_text()
        for pattern, stand_in in swaps:
            text, count = re.subn(pattern, stand_in, text)
            assert count, f"{name} has nothing like {pattern} any more"
        (folder / name).write_text(text)
    return folder
