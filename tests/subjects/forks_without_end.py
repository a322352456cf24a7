"""Starts children that stay."""

import os
import time

for _ in range(200):
    if os.fork() == 0:
        time.sleep(1000)
time.sleep(1000)
