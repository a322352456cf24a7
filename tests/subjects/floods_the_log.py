"""Prints 200 MB: short lines, a progress bar without newlines, one endless line."""

import sys

MEGABYTES = {"lines": 70, "bar": 70, "line": 70}
WRITTEN = {
    "lines": b"nothing of interest, over and over again, for a while\n" * 18_500,
    "bar": b"\r\x1b[2Kprogress bar" * 60_000,
    "line": b"x" * 10**6,
}

for kind, megabytes in MEGABYTES.items():
    for _ in range(megabytes):
        sys.stdout.buffer.write(WRITTEN[kind])
sys.stdout.buffer.write(b"\nlast words\n")
sys.exit(3)
