"""Thousands of experiments without training: does the researcher's own work stay small and the same to the end?

The loop, journal, git, queue and projections are real, on the default subject; the trainer answers at once and the
proposals come from a script (or, as an option, from the real optimiser). A shared machine changes its speed by a third
within a minute, so the last window of experiments runs at the same time as the first window of another, new run. A
window has a hundred experiments, or five hundred in a run of more than two thousand. Limits: an experiment of the last
window within 1.2 times one of the first, 60 processor seconds of the researcher and its git for a thousand, memory and
descriptors constant.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from rich.console import Console
from rich.table import Table

from researcher.repository.creation import create_repository
from services.machine.subject import render_subject
from services.redis.server import RedisServer
from tests.bench.scripted_researcher import START_LEVEL
from tests.fixtures.servers import open_server
from trainer.jobs import connect, profile_named

GROWTH_BAR, PROCESSOR_BAR_S = 1.2, 60.0
WINDOW, LONG_WINDOW, LONG_RUN = 100, 500, 2000
WIDTH = 100  # columns that the table needs, also without a terminal


@dataclass(frozen=True)
class Reading:
    """The researcher's use until this many proposals; `git_mib` is the memory of its git processes.

    `fixed_work_s` are the processor seconds of a fixed piece of work, which distinguish a busy machine from a slow
    researcher.
    """

    proposals: int
    at: float
    processor_s: float
    fixed_work_s: float
    own_mib: float
    git_mib: float
    descriptors: int


def run(experiments: int, real: bool, push: bool) -> None:
    """Do the runs and print the table. With `push`, each run pushes to a repository of a user."""
    window = LONG_WINDOW if experiments > LONG_RUN else WINDOW
    with tempfile.TemporaryDirectory(prefix="overnight-bench-") as name:
        old, new = Path(name, "old"), Path(name, "new")
        with open_server(old / "redis") as server, open_server(new / "redis") as other:
            set_up(old, server, push)
            set_up(new, other, push)
            readings = run_once(old, server, 0, experiments - window, window, real)
            with ThreadPoolExecutor(2) as both:
                last = both.submit(run_once, old, server, experiments - window, experiments, window, real)
                first = both.submit(run_once, new, other, 0, window, window, real)
            _print(readings, last.result(), first.result())
            for part in ("journal", "subject/.git", "subject/results.tsv", "log"):
                print(f"{part}: {_disk_mib(old / part):.1f} MiB, {_file_count(old / part)} files")
            with connect(server.url, password=server.password) as connection:
                print(f"Redis: {connection.dbsize()} keys, {connection.info('memory')['used_memory'] / 2**20:.1f} MiB")


def set_up(folder: Path, server: RedisServer, push: bool) -> None:
    files = render_subject(profile_named("cpu"))
    level = f"LEVEL = {START_LEVEL}  # what the scripted trainer reads; range 1..25\n"
    files["train.py"] = files["train.py"].replace("DEPTH = ", f"{level}DEPTH = ", 1)
    create_repository(folder / ("user" if push else "subject"), files, "The default subject with a LEVEL")
    (folder / "data").mkdir()
    (folder / "data" / "manifest.json").write_text(json.dumps({"digest": "0" * 64}))
    (folder / "password").write_text(server.password or "")


def run_once(folder: Path, server: RedisServer, done: int, experiments: int, window: int, real: bool) -> list[Reading]:
    """Continue from `done` to `experiments` experiments; return the readings."""
    password, readings = folder / "password", folder / f"readings-{done}"
    trainer = ["-m", "tests.doubles.scripted_trainer", "--redis", server.url, "--password-file", str(password)]
    researcher = ["-m", "tests.bench.scripted_researcher", str(readings), str(done), str(window)]
    researcher += ["--real"] if real else []
    settings = {
        "REDIS_URL": server.url,
        "REDIS_PASSWORD_FILE": str(password),
        "SUBJECT_DIR": str(folder / "subject"),
        "JOURNAL_DIR": str(folder / "journal"),
        "DATA_DIR": str(folder / "data"),
        "PROPOSER": "optimizer",
        "EXPERIMENTS": str(experiments),
        "SEED": "7",
    }
    if (folder / "user").exists():
        settings["USER_REPOSITORY"] = str(folder / "user")
    with (folder / "log").open("ab") as log:
        working = subprocess.Popen([sys.executable, *trainer], stdout=log, stderr=log)
        try:
            ended = subprocess.run(
                [sys.executable, *researcher], env=os.environ | settings, stdout=log, stderr=log, check=False
            )
        finally:
            working.kill()
            working.wait()
    if ended.returncode != 0:
        raise SystemExit(f"the researcher ended with {ended.returncode}:\n{(folder / 'log').read_text()[-3000:]}")
    return [Reading(**json.loads(line)) for line in readings.read_text().splitlines()]


def _print(readings: list[Reading], last: list[Reading], first: list[Reading]) -> None:
    table = Table(title="the researcher and its git; seconds are an experiment's")
    for name in ("until", "wall s", "processor s", "fixed work s", "own MiB", "git MiB", "descriptors"):
        table.add_column(name, justify="right")
    for before, reading in pairwise(readings):
        table.add_row(*_row(str(reading.proposals), before, reading))
    table.add_section()
    table.add_row(*_row("the last", last[0], last[-1]))
    table.add_row(*_row("the first, beside it", first[0], first[-1]))
    Console(width=WIDTH).print(table)
    wall, processor = (ours / its for ours, its in zip(each(*last), each(*first), strict=True))
    window, done = first[-1].proposals, readings[-1].proposals + last[-1].proposals
    thousand_s = (readings[-1].processor_s + last[-1].processor_s) / done * 1000
    print(f"last against first {window}: wall {wall:.2f}, processor {processor:.2f} (bar {GROWTH_BAR})")
    print(f"{thousand_s:.1f} processor s for a thousand (bar {PROCESSOR_BAR_S:.0f})")
    print(f"load {os.getloadavg()[0]:.1f}")


def _row(name: str, before: Reading, reading: Reading) -> list[str]:
    wall_s, processor_s = each(before, reading)
    figures = [f"{wall_s:.4f}", f"{processor_s:.4f}", f"{reading.fixed_work_s:.3f}"]
    return [name, *figures, f"{reading.own_mib:.0f}", f"{reading.git_mib:.0f}", str(reading.descriptors)]


def each(before: Reading, after: Reading) -> tuple[float, float]:
    """Return wall and processor seconds for each experiment."""
    count = after.proposals - before.proposals
    return (after.at - before.at) / count, (after.processor_s - before.processor_s) / count


def _disk_mib(path: Path) -> float:
    return sum(item.stat().st_blocks for item in _files(path)) * 512 / 2**20


def _file_count(path: Path) -> int:
    return len(_files(path))


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else [item for item in path.rglob("*") if item.is_file()]
