"""Forty lines of processes: each link starts the next in a session of its own and ends; no list of them stays true."""

import os
import time

for _ in range(40):
    if os.fork() == 0:
        while True:
            os.setsid()
            time.sleep(0.005)
            if os.fork():
                os._exit(0)
print("started", flush=True)
time.sleep(1000)
