"""Where the kernel counts memory and its kills for it, on file trees as the versions of control groups show them."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.sandbox.cgroup import group_memory_mib, kernel_oom_kills

HYBRID = "9:name=systemd:/\n4:memory:/docker/abc\n1:cpu:/docker/abc\n0::/docker/abc\n"
V1_KILLS = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"
V2_KILLS = "low 0\nhigh 0\nmax 9\noom 9\noom_kill 5\noom_group_kill 0\n"
VMSTAT = {"proc/vmstat": "nr_free_pages 1\noom_kill 7\n"}


@pytest.mark.parametrize(
    ("files", "kills"),
    [
        ({}, 0),
        (VMSTAT, 7),
        (VMSTAT | {"proc/self/cgroup": "0::/\n"}, 7),
        (VMSTAT | {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.events": V2_KILLS}, 5),
        (VMSTAT | {"proc/self/cgroup": "0::/night.scope\n", "sys/fs/cgroup/night.scope/memory.events": V2_KILLS}, 5),
        (VMSTAT | {"proc/self/cgroup": HYBRID, "sys/fs/cgroup/memory/memory.oom_control": V1_KILLS}, 3),
        (VMSTAT | {"proc/self/cgroup": HYBRID, "sys/fs/cgroup/memory/docker/abc/memory.oom_control": V1_KILLS}, 3),
        (VMSTAT | {"proc/self/cgroup": HYBRID, "sys/fs/cgroup/memory/memory.oom_control": "under_oom 0\n"}, 7),
    ],
    ids=["nothing", "machine", "top of v2", "container v2", "host v2", "container v1", "host v1", "old v1"],
)
def test_kills_are_counted_as_near_as_possible(files: dict[str, str], kills: int, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    found = kernel_oom_kills(tmp_path)

    assert found.count == kills
    assert found.of_own_group == (kills not in (0, 7)), "the machine's own count is 7"


V1_MEMORY = "cache 9437184\nrss 1048576\nshmem 0\ntotal_cache 9437184\ntotal_rss 3145728\ntotal_shmem 2097152\n"
V2_MEMORY = "anon 4194304\nfile 9437184\nkernel 1\nshmem 2097152\nanon_thp 0\n"


@pytest.mark.parametrize(
    ("files", "mib"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/\n"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.stat": V2_MEMORY}, 6),
        ({"proc/self/cgroup": "0::/night.scope\n", "sys/fs/cgroup/night.scope/memory.stat": V2_MEMORY}, 6),
        ({"proc/self/cgroup": HYBRID, "sys/fs/cgroup/memory/memory.stat": V1_MEMORY}, 5),
    ],
    ids=["nothing", "machine", "container v2", "host v2", "container v1"],
)
def test_memory_of_the_group_is_what_processes_hold_without_what_is_cached_of_disks(
    files: dict[str, str], mib: float | None, tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    assert group_memory_mib(tmp_path) == mib
