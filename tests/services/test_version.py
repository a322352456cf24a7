"""`overnight --version`, installed and from a source tree alone."""

from __future__ import annotations

import subprocess
import sys
import tomllib

from tests import ROOT

NOT_INSTALLED = """\
import sys
from services.machine.installation import version

sys.path[:] = [entry for entry in sys.path if not entry.endswith("-packages")]
print(version())
"""


def printed_by(*arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def declared() -> str:
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])


def test_version_is_printed_and_is_that_of_pyproject() -> None:
    assert printed_by("-m", "services.cli", "--version") == f"overnight {declared()}"


def test_version_is_read_from_the_source_tree_where_no_package_is_installed() -> None:
    assert printed_by("-c", NOT_INSTALLED) == declared()
