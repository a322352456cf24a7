"""Starts process after process, each of which holds what the first one does."""

import os
import time

held = bytearray(b"x" * 2**27)
while os.fork() > 0:
    time.sleep(0.05)
time.sleep(600)
