"""Starts, stops and shows runs: the `overnight` command, local mode, and one folder for each container.

Importing the package makes the researcher and the trainer beside it count, whatever PYTHONPATH and the current folder
hold under these names.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def _is_ours(package: str) -> bool:
    spec = find_spec(package)
    return spec is not None and spec.origin is not None and Path(spec.origin).resolve().is_relative_to(ROOT)


if not (_is_ours("researcher") and _is_ours("trainer")):
    sys.path.insert(0, str(ROOT))
