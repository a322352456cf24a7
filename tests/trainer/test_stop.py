"""A signal that stops a process leaves it its exit code."""

import subprocess
import sys
from pathlib import Path

_SIGNALLED_IN_CODE_FROM_A_TEXT = """
import os, signal, sys
from trainer.stop import StopRequested, request_stop

signal.signal(signal.SIGTERM, request_stop)
try:
    exec("os.kill(os.getpid(), signal.SIGTERM)\\nfor _ in range(10**9): pass")
except StopRequested:
    sys.exit(130)
"""


def test_a_process_that_is_stopped_in_code_from_a_text_ends_with_its_own_exit_code(tmp_path: Path) -> None:
    (tmp_path / "signalled.py").write_text(_SIGNALLED_IN_CODE_FROM_A_TEXT)

    done = subprocess.run([sys.executable, "-m", "signalled"], cwd=tmp_path, check=False, timeout=60)

    assert done.returncode == 130
