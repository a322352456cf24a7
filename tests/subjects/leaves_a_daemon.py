"""Starts three processes that want to outlive it: a child, a grandchild in a session of its own, a nameless daemon."""

import os
import subprocess
import sys
import time

from prepare import make_dataloader

SLEEPER = [sys.executable, "-c", "import time; time.sleep(1000)", os.getcwd()]
subprocess.Popen(SLEEPER)
subprocess.Popen(SLEEPER, start_new_session=True)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execve(SLEEPER[0], SLEEPER, {})  # no environment: nothing marks it
    os._exit(0)
next(make_dataloader(None, 8, 32, "train"))
print("training")
time.sleep(1000)
