"""Leaves what could trip whoever comes after it, under the names that its trainer uses, and tries to be elsewhere."""

import os
import socket
from pathlib import Path

PRECIOUS = "/"

work = Path.cwd().parent
for name in ("result.json", "log.txt", "precious"):
    (work / name).symlink_to(PRECIOUS)
os.mkfifo(work / "home" / "result.json")
socket.socket(socket.AF_UNIX).bind(str(work / "tmp" / "s"))
(work / "cache" / "result.json").mkdir()
os.truncate(os.open(work / "sparse", os.O_CREAT | os.O_RDWR), 2**25)
(work / "closed" / "closed").mkdir(parents=True)
os.chmod(work / "closed" / "closed", 0)
os.chmod(work / "closed", 0)
try:
    os.rename(work, work.with_name("elsewhere"))
    work.symlink_to(PRECIOUS)
except OSError as refusal:
    print("it stays where it is:", refusal)
for place in (work, work.parent, work.with_name("another")):
    try:
        os.symlink(PRECIOUS, place / "e-1-t1-a2")
    except OSError:
        continue
