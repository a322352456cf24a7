"""The cost of the sandbox around a candidate: its start, the end of a process tree that respawns, floods of output; as
this user and, if this user is root, as another user.

Limits: a start within 30 ms of a bare interpreter's (median, in turn), and a tree has ended within half a second.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from unittest import mock

from rich.console import Console
from rich.table import Table

from tests.fixtures.trials import CAPS, SUBJECTS, interpreter_for, library_path, miniature, tiny_data
from trainer.jobs import TrialResult, TrialSpec
from trainer.sandbox.launch import MARKER, ROOT, GuardedProcess, Launch, User, environment
from trainer.sandbox.paths import WorkerConfig
from trainer.sandbox.procfs import descendants
from trainer.sandbox.usage import carriers
from trainer.sandbox.visible_paths import grants
from trainer.trial.trial import run_trial

START_BAR_MS, KILL_BAR_MS = 30, 500
LINKS, SEEN = 75, 40  # processes of a tree that live for milliseconds, and how many must be alive when it is killed
PROBE = "import sys; sys.path.insert(0, sys.argv[1]); from trainer.sandbox.selftest_probe import main; main()"
FLOODS = {"none": {}, "lines": {"lines": 200}, "one line": {"line": 200}, "CR": {"bar": 200}}
Row = tuple[str, str, str]


def run(repeats: int, kills: int) -> None:
    """Print the table."""
    ground = Path(tempfile.mkdtemp(prefix="overnight-bench-", dir="/var/tmp"))
    try:
        ground.chmod(0o755)
        columns = {"same uid": _measured(ground, None, repeats, kills)}
        if os.geteuid() == 0:
            user = User(60_000 + os.getpid() % 5_000, 60_000 + os.getpid() % 5_000)
            python = interpreter_for(user, ground)
            if python is None:
                sys.exit(f"uid {user.uid} can start no interpreter here; run this as another user, or fix that")
            sys.executable = str(python)
            os.environ["LD_LIBRARY_PATH"] = library_path(python)
            columns["other uid"] = _measured(ground, user, repeats, kills)
    finally:
        shutil.rmtree(ground)
    table = Table(title=f"the sandbox around a candidate; load {os.getloadavg()[0]:.1f}")
    for name in ("what", *columns, "bar"):
        table.add_column(name, justify="left" if name == "what" else "right")
    for rows in zip(*columns.values(), strict=True):
        table.add_row(rows[0][0], *(row[1] for row in rows), rows[0][2])
    Console(width=110).print(table)


def _measured(ground: Path, user: User | None, repeats: int, kills: int) -> list[Row]:
    folder = ground / ("other" if user else "same")
    (folder / "trials").mkdir(parents=True)
    (folder / "work").mkdir(mode=0o700)
    if user is not None:
        os.chown(folder / "work", user.uid, user.gid)
    config = WorkerConfig(tiny_data(folder / "data"), folder / "trials", folder / "work", user=user)
    return [*_starts(config, repeats), *_kills(config, kills), *_floods(config)]


def _starts(config: WorkerConfig, repeats: int) -> list[Row]:
    """Start the probe without any act, bare and in the whole sandbox, in turn; measure until it has ended."""
    folder = config.work / "start"
    bare = [sys.executable, "-s", "-P", "-c", PROBE, ROOT, "{}"]
    took: dict[str, list[float]] = {"bare": [], "launched": []}
    for _ in range(repeats):
        began = time.monotonic()
        subprocess.run(bare, env=environment(folder), check=True, cwd="/")
        took["bare"].append(time.monotonic() - began)
        began = time.monotonic()
        guarded = GuardedProcess.start(_probe(config, folder))
        select.select([guarded.report_fd], [], [])
        took["launched"].append(time.monotonic() - began)
        ending = guarded.ending()
        guarded.close()
        shutil.rmtree(folder)
        assert ending is not None
        assert ending.exit_code == 0, ending
    bare_ms, launched_ms = (1000 * median(times) for times in took.values())
    more_ms = 1000 * median(map(float.__sub__, took["launched"], took["bare"]))
    least_ms = (1000 * min(times) for times in took.values())
    return [
        (f"bare interpreter, median of {repeats}, ms", f"{bare_ms:.1f}", ""),
        ("launched, ms", f"{launched_ms:.1f}", ""),
        ("bare and launched at their quickest, ms", " / ".join(f"{ms:.1f}" for ms in least_ms), ""),
        ("more, ms", f"{more_ms:.1f}", f"<= {START_BAR_MS}"),
    ]


def _probe(config: WorkerConfig, folder: Path) -> Launch:
    return Launch(
        folder=folder,
        files={},
        orders="{}",
        env={},
        keep_fds=(),
        wall_limit_s=60,
        file_mib=1,
        processes=64,
        grants=grants(config.data),
        user=config.user,
        module="trainer.sandbox.selftest_probe",
    )


def _kills(config: WorkerConfig, kills: int) -> list[Row]:
    """Measure from the wish to stop to the guardian's report that nothing is left."""
    source = (SUBJECTS / "respawns.py").read_text().replace("range(40)", f"range({LINKS})")
    told: list[float] = []
    over: list[float] = []
    alive: list[int] = []
    left = 0
    stop, ending = GuardedProcess.stop, GuardedProcess.ending
    for number in range(kills):
        spec = miniature(config.data, source, trial=f"k-1-t{number}-a1", caps=dataclasses.replace(CAPS, processes=500))
        marker = f"{MARKER}={config.folder}".encode()
        with (
            mock.patch.object(GuardedProcess, "stop", lambda self: (told.append(time.monotonic()), stop(self))),
            mock.patch.object(GuardedProcess, "ending", lambda self: (over.append(time.monotonic()), ending(self))[1]),
        ):
            run_trial(spec, config, lambda _: None, _once_alive(alive))
        del told[len(over) :]
        left += len(carriers([marker]))
    took_ms = [1000 * (end - start) for start, end in zip(told, over, strict=True)]
    return [
        (f"respawning trees of {LINKS} killed; met alive, least", f"{kills}; {min(alive)}", ""),
        ("left over", f"{left}", "0"),
        (
            "until nothing is left, median / most, ms",
            f"{median(took_ms):.0f} / {max(took_ms):.0f}",
            f"<= {KILL_BAR_MS}",
        ),
    ]


def _once_alive(alive: list[int]) -> Callable[[], bool]:
    """Return a function that asks to stop as soon as the tree has grown, and notes the number of its processes."""
    stopped = False

    def preempted() -> bool:
        nonlocal stopped
        if not stopped and (seen := len(descendants(os.getpid()))) >= SEEN:
            alive.append(seen)
            stopped = True
        return stopped

    return preempted


def _floods(config: WorkerConfig) -> list[Row]:
    """Run each trial in a fork, whose processor seconds and peak memory are the log sink's; compare it with a silent
    one."""
    source = (SUBJECTS / "floods_the_log.py").read_text()
    seen = {}
    for number, (name, printed) in enumerate(FLOODS.items()):
        train = re.sub("MEGABYTES = .*", f"MEGABYTES = {printed}", source)
        seen[name] = _in_a_fork(miniature(config.data, train, trial=f"f-1-t{number}-a1"), config)
    wall_s, own_s, _, peak_mib = seen.pop("none")
    rows = [("worker's peak without a flood, MiB", f"{peak_mib:.0f}", "")]
    for name, figures in seen.items():
        told = f"{figures[0] - wall_s:.1f} / {figures[1] - own_s:.1f} / {figures[2] / 2**10:.0f} / {figures[3]:.0f}"
        kept = f"kept <= {CAPS.log_kib}"
        rows.append((f"200 MB in {name}: wall s / worker's s / KiB kept / peak MiB", told, kept))
    return rows


def _in_a_fork(spec: TrialSpec, config: WorkerConfig) -> tuple[float, float, int, float]:
    """Return wall seconds, the fork's processor seconds, kept bytes, and the fork's peak memory in MiB."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        result: TrialResult = run_trial(spec, config, lambda _: None, lambda: False)
        spent = resource.getrusage(resource.RUSAGE_SELF)
        assert result.log is not None
        own_s = spent.ru_utime + spent.ru_stime
        os.write(writing, json.dumps([result.wall_s, own_s, result.log.kept_bytes, spent.ru_maxrss / 1024]).encode())
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as file:
        wall_s, own_s, kept, peak_mib = json.loads(file.read())
    os.wait()
    return wall_s, own_s, kept, peak_mib
