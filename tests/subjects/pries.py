"""Tries what a candidate must not, at targets that a test put in the place of the empty ones; prints what it could."""

import getpass
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

TARGETS = {}


def read(path):
    assert Path(path).read_bytes()


def write(path):
    Path(path).write_text("mine")


def connect():
    socket.create_connection(("127.0.0.1", TARGETS["port"]), timeout=5).close()


def fork_and_talk():
    """What a loader with workers needs."""
    here, there = socket.socketpair()
    subprocess.run([sys.executable, "-c", "print('hello')"], stdout=there, check=True)
    assert here.recv(5) == b"hello"


def share_memory():
    from multiprocessing import get_context

    queue = get_context("fork").Queue()
    get_context("fork").Process(target=queue.put, args=(1,)).start()
    assert queue.get(timeout=20) == 1


def run_thread():
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()


TRIES = {
    "connect to a TCP port": connect,
    "send to a UDP port": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 9)),
    "ask the kernel for routes": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "read a file of mode 0600": lambda: read(TARGETS["secret"]),
    "read the validation rows": lambda: read(TARGETS["val"]),
    "read the trainer's environment": lambda: read(f"/proc/{TARGETS['trainer']}/environ"),
    "signal the trainer": lambda: os.kill(TARGETS["trainer"], 0),
    "signal the guardian": lambda: os.kill(os.getppid(), signal.SIGCONT),
    "limit the trainer": lambda: resource.prlimit(TARGETS["trainer"], resource.RLIMIT_CORE),
    "write a result": lambda: write(Path(TARGETS["trials"], "forged")),
    "write the data": lambda: write(Path(TARGETS["data"], "forged")),
    "write where others work": lambda: write(Path(TARGETS["work"]).parent / "forged"),
    "read the training rows": lambda: read(Path(TARGETS["data"], "train.npy")),
    "write at home": lambda: write(Path.home() / "kept"),
    "start and hear a process": fork_and_talk,
    "share memory with a process": share_memory,
    "run a thread": run_thread,
    "name its user": getpass.getuser,
}
for what, attempt in TRIES.items():
    try:
        attempt()
        print("could:", what)
    except (OSError, AssertionError) as refusal:
        print("could not:", what, "-", refusal)
for line in Path("/proc/self/status").read_text().splitlines():
    if line.split(":")[0] in ("Uid", "Groups", "NoNewPrivs", "Seccomp", "CapEff"):
        print(line)
print("Tasks:", resource.getrlimit(resource.RLIMIT_NPROC)[0])
