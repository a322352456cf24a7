"""Prints 200 MB: short lines, a progress bar without newlines, one endless line."""

import sys

out = sys.stdout.buffer
for _ in range(100):
    out.write(b"nothing of interest, over and over again, for a while\n" * 18_000)
for _ in range(50):
    out.write(b"\r\x1b[2Kprogress bar" * 60_000)
for _ in range(50):
    out.write(b"x" * 2**20)
out.write(b"\nlast words\n")
sys.exit(3)
