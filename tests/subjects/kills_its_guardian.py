"""Kills the process that guards it, after it started two children that do not care; one of them is nameless."""

import os
import signal
import subprocess
import sys
import time

SLEEPER = [sys.executable, "-c", "import time; time.sleep(1000)", os.getcwd()]
subprocess.Popen(SLEEPER, start_new_session=True)
subprocess.Popen(SLEEPER, start_new_session=True, env={})
os.kill(os.getppid(), signal.SIGKILL)
time.sleep(1000)
