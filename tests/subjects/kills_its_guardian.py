"""Kills the process that guards it, after it started a child that does not care."""

import os
import signal
import subprocess
import sys
import time

subprocess.Popen(
    [sys.executable, "-c", "import time; time.sleep(1000)", "left-over-of-a-miniature-subject"], start_new_session=True
)
os.kill(os.getppid(), signal.SIGKILL)
time.sleep(1000)
