"""Reads the trainer's own control group: the kernel's kills for lack of memory, and the memory of its processes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class OomKills:
    """The number of processes killed for lack of memory, in the trainer's control group or on the whole machine."""

    count: int
    of_own_group: bool


def kernel_oom_kills(root: Path = Path("/")) -> OomKills:
    """Return the kernel's kills for lack of memory so far; compare two calls.

    They are counted in the trainer's own control group, which is that of its container. Without such a counter they are
    counted on the whole machine, and without any they are 0.
    """
    for counter in _group_files(root, "memory.events", "memory.oom_control"):
        if (count := _counts(counter).get("oom_kill")) is not None:
            return OomKills(count, of_own_group=True)
    return OomKills(_counts(root / "proc/vmstat").get("oom_kill", 0), of_own_group=False)


def group_memory_mib(root: Path = Path("/")) -> float | None:
    """Return the memory in MiB of the trainer's own control group, or None without a counter; compare two calls.

    In a container this is the memory of all its processes. A shared page counts once; cached files do not count.
    """
    for counter in _group_files(root, "memory.stat", "memory.stat"):
        counts = _counts(counter)
        for own, shared in (("anon", "shmem"), ("total_rss", "total_shmem")):
            if own in counts:
                return (counts[own] + counts.get(shared, 0)) / 2**20
    return None


def _counts(counter: Path) -> dict[str, int]:
    return {name: int(count) for name, _, count in (line.partition(" ") for line in kernel_text(counter).splitlines())}


def _group_files(root: Path, in_v2: str, in_v1: str) -> Iterator[Path]:
    """Yield the possible paths of a counter, for both versions of control groups.

    In a container the group's path is the host's, and its folder is mounted at the top. Elsewhere the folder is below.
    """
    mounted = root / "sys/fs/cgroup"
    for line in kernel_text(root / "proc/self/cgroup").splitlines():
        number, controllers, own = line.split(":", 2)
        if number == "0":
            folder, counter = mounted, in_v2
        elif "memory" in controllers.split(","):
            folder, counter = mounted / "memory", in_v1
        else:
            continue
        yield folder / own.lstrip("/") / counter
        yield folder / counter


def kernel_text(path: Path) -> str:
    """Return the text of a file in procfs or sysfs, or an empty text if this kernel does not have the file."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
