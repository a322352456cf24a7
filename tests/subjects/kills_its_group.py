"""Kills its whole process group."""

import os
import signal

print("it leads its session:", os.getsid(0) == os.getpid(), flush=True)
os.killpg(0, signal.SIGKILL)
