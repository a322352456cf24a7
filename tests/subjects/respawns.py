"""Forty lines of processes: each link starts the next in a session of its own and ends; no list of them stays true.

Where nobody ends them they end by themselves, minutes later."""

import os
import time

END_S = time.monotonic() + 120

for _ in range(40):
    if os.fork() == 0:
        while time.monotonic() < END_S:
            os.setsid()
            time.sleep(0.005)
            if os.fork():
                break
        os._exit(0)
print("started", flush=True)
time.sleep(1000)
