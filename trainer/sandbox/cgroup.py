"""What the kernel tells of our own control group: its kills for memory, and the memory its processes hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class OomKills:
    """How many processes the kernel has killed for memory, and whether all of them were of our own control group."""

    count: int
    of_own_group: bool


def kernel_oom_kills(root: Path = Path("/")) -> OomKills:
    """The kernel's kills for memory in our own control group, so in our container; where no group counts, on the whole
    machine. 0 where nothing says. Compare two calls.
    """
    for counter in _group_files(root, "memory.events", "memory.oom_control"):
        if (count := _counts(counter).get("oom_kill")) is not None:
            return OomKills(count, of_own_group=True)
    return OomKills(_counts(root / "proc/vmstat").get("oom_kill", 0), of_own_group=False)


def group_memory_mib(root: Path = Path("/")) -> float | None:
    """What the processes of our own control group hold, so all of our container's, every shared page counted once and
    files on disks left out; None where no group counts. Compare two calls.
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
    """Of both versions of control groups. In a container the group's path is the host's and its folder is mounted at
    the top; elsewhere it is below."""
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
    """Return the text of a file of the kernel's, or nothing where this kernel has no such file."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
