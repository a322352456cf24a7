"""A real run (torch, RQ, Valkey, git, the supervisor of local mode) of which any part is killed at any time.

`CHAOS_S` says for how long (60 s unless told), `CHAOS_SEED` repeats the choice of victims and pauses, though not what
the machine makes of them: `CHAOS_S=300 scripts/test -m slow tests/scenarios/crash/test_chaos.py`.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from researcher.journal.reader import JournalReader
from tests.scenarios.crash.checker import check
from tests.scenarios.crash.conftest import report_found
from tests.scenarios.test_local_run import LocalRun, trials
from trainer.sandbox.procfs import process_table

SECONDS = float(os.environ.get("CHAOS_S", "60"))
SEED = int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(10**6))
PAUSE_S = (1.0, 12.0)  # a trial takes four to eight; who is killed more often than that makes no progress
RARE = ("everything", "supervisor")
END_S = 300.0


@pytest.fixture
def local_run(tmp_path: Path) -> Iterator[LocalRun]:
    made = LocalRun(tmp_path)
    yield made
    made.end()


@pytest.mark.slow
def test_run_of_random_kills_loses_nothing_doubles_nothing_and_leaves_no_process(local_run: LocalRun) -> None:
    chance, killed = random.Random(SEED), Counter[str]()
    print(f"CHAOS_SEED={SEED}")
    running = start(local_run)
    local_run.wait_until(trials(2))
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.wait(chance.uniform(*PAUSE_S))
        there = parts(local_run, running.pid)
        victim = chance.choice([part for part in sorted(there) for _ in range(1 if part in RARE else 3)])
        killed[victim] += 1
        kill(there[victim])
        if victim in RARE:
            running.wait(10)
            local_run.wait_for_silence()
            running = start(local_run)

    running.send_signal(signal.SIGINT)
    running.wait(60)
    local_run.wait_for_silence()
    goal = measured(local_run) + 2
    assert start(local_run, experiments=goal).wait(END_S) == 0, local_run.output.read_text()[-6000:]
    local_run.wait_for_silence()
    found = check(local_run.state)
    victims = ", ".join(f"{count} {victim}" for victim, count in killed.most_common())
    report_found(f"{SECONDS:.0f} s of chaos, seed {SEED} ({victims})", found, killed.total())
    assert found["faults"] == []
    assert found["experiments"] == goal


def start(local_run: LocalRun, experiments: int = 10_000) -> subprocess.Popen[bytes]:
    return local_run.start("--experiments", str(experiments), "--proposer", "optimizer")


def parts(local_run: LocalRun, supervisor: int) -> dict[str, list[int]]:
    """What runs at the moment, by the name of the part; whatever else a part started goes with `everything`."""
    lines, table = local_run.processes(), process_table()

    def below(parents: list[int], words: str = "") -> list[int]:
        return [pid for pid in lines if pid in table and table[pid].parent in parents and words in lines[pid]]

    found = {
        "everything": list(lines),
        "supervisor": [supervisor],
        "researcher": below([supervisor], "-m researcher"),
        "server": below([supervisor], "-server 127.0.0.1"),
        "worker": below([supervisor], "-m trainer"),
    }
    found["fork"] = below(found["worker"])
    found["guardian"] = below(found["fork"])
    found["training"] = below(found["guardian"])
    return {part: pids for part, pids in found.items() if pids}


def kill(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def measured(local_run: LocalRun) -> int:
    with JournalReader(local_run.state / "journal") as history:
        return history.measured_count()
