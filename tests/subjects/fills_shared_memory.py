"""Holds memory in files that no process has mapped, as somebody would who hides it."""

import time
from pathlib import Path

for number in range(40):
    Path(f"/dev/shm/hidden-{number}").write_bytes(b"x" * 2**24)
time.sleep(600)
