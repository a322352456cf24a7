"""Takes memory until somebody says stop."""

import time

held = []
while True:
    held.append(bytearray(b"x" * 2**25))
    time.sleep(0.02)
