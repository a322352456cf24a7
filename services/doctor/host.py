"""The host of a run: disk, ports, clock; for local mode also Python's packages, git and the Redis server."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from services.doctor.environment import Environment
from services.doctor.finding import Finding, fail, ok, warn
from services.machine.gpus import InstalledGpu
from services.machine.installation import installing
from services.redis.binary import NoServerProgram, choose_binary
from services.redis.folder import ServerFolder
from services.redis.server import OLDEST
from trainer.sandbox.candidate_user import UIDS, obstacle
from trainer.sandbox.launch import User

_GIB = 2**30
_A_DAY = timedelta(days=1)

Port = tuple[str, int]


def disk(facts: Environment, folder: Path, wanted_gib: int, fix: str) -> Finding:
    """Test the free space in the folder of images, volumes or the state."""
    free_gib = facts.free_bytes(folder) / _GIB
    found, wanted = f"{free_gib:.1f} GiB free in {folder}", f">= {wanted_gib}"
    return ok("disk", found, wanted) if free_gib >= wanted_gib else fail("disk", found, fix, wanted)


def ports(published: Collection[Port], ours: Collection[Port]) -> list[Finding]:
    """Test that no other program listens on the stack's ports. `ours` are the ports on which the stack itself
    listens."""
    taken = [port for port in published if port not in ours and not _can_listen(port)]
    if taken:
        return [
            fail("ports", f"{host}:{number} is taken", f"sudo ss -ltnp 'sport = :{number}' says by whom; end that")
            for host, number in taken
        ]
    addresses = ", ".join(f"{host}:{number}" for host, number in published)
    return [ok("ports", f"{addresses} free" if addresses else "none is published")]


def _can_listen(port: Port) -> bool:
    family = socket.AF_INET6 if ":" in port[0] else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(port)
        except OSError as error:
            return error.errno not in (errno.EADDRINUSE, errno.EADDRNOTAVAIL)
    return True


def clock(facts: Environment) -> Finding:
    """Test that the clock is not behind the newest file of this clone; TLS, cost and the times in the journal depend on
    it."""
    newest = max(datetime.fromtimestamp(path.stat().st_mtime, UTC) for path in facts.root.iterdir() if path.exists())
    today = f"{facts.now:%Y-%m-%d %H:%M} UTC"
    if facts.now < newest - _A_DAY:
        return warn(
            "clock", f"{today}, but this clone has a file of {newest:%Y-%m-%d}", "sudo timedatectl set-ntp true"
        )
    return ok("clock", today)


def git(facts: Environment) -> Finding:
    """Test that git is installed, since every candidate is a commit."""
    try:
        answer = facts.run("git", "--version")
    except (FileNotFoundError, PermissionError, subprocess.TimeoutExpired):
        return fail("git", "not installed", "sudo apt-get install git")
    return ok("git", answer.stdout.strip().removeprefix("git version "))


def packages(
    facts: Environment, installed_gpus: list[InstalledGpu], installed: Callable[[str], str] = version
) -> Finding:
    """Test that torch is installed in this environment, in a build that can use the GPU, and the shards' reader."""
    python = f"Python {sys.version.split()[0]} in {sys.prefix}"
    try:
        torch = installed("torch")
    except PackageNotFoundError:
        return fail("python", f"{python}, without torch", installing("torch", facts.root))
    if installed_gpus and torch.endswith("+cpu"):
        fix = "reinstall torch from an index with CUDA builds, or overnight run --profile cpu"
        return fail("python", f"{python}, torch {torch}, which cannot use the GPU", fix)
    try:
        installed("pyarrow")
    except PackageNotFoundError:
        if installed_gpus:
            found = f"{python}, torch {torch}, without pyarrow, which reads the shards of the GPU profiles"
            return warn("python", found, installing("pyarrow", facts.root))
    return ok("python", f"{python}, torch {torch}")


def candidates(facts: Environment) -> Finding:
    """Test whether candidates can run as another user if root starts the run: that user must be able to read what they
    need."""
    if os.geteuid() != 0:
        return ok("user", "candidates run as you, without any right")
    closed = obstacle(User(UIDS[0], UIDS[0]), facts.state.work, facts.state.data)
    if closed is None:
        return ok("user", f"candidates run as a uid of their own, from {UIDS[0]}")
    return warn("user", f"candidates run as root, without its rights: {closed.found}", closed.next_step)


def redis_server(facts: Environment) -> Finding:
    """Test that a program for the embedded server exists."""
    try:
        binary = choose_binary(ServerFolder(facts.state.redis).remembered_binary(), OLDEST)
    except NoServerProgram as error:
        return fail("redis", error.found, "sudo apt-get install redis-server")
    return ok("redis", f"{binary.path.name} from {binary.origin}")
