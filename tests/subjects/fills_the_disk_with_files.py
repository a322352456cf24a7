"""Writes small files until somebody says stop; no single one is too large."""

import os
import time

os.mkdir("many")
for number in range(10**6):
    with open(f"many/{number}", "wb") as file:
        file.write(bytes(2**18))
    time.sleep(0.001)
