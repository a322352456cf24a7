"""The run in containers of which any part dies at any time, the engine with them, and its story is checked.

`CHAOS_S` says for how long (90 s unless told; what must happen once happens, however long that takes), `CHAOS_SEED`
repeats the choice of victims and pauses, though not what the machine makes of them. Named to run after test_run,
whose run it takes over. An engine that is not ours to stop is left alone, and the figures say so.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from dataclasses import dataclass, field

import pytest

from tests.compose.conftest import timed
from tests.compose.stack import FINISHED, MEASURED, STAY_UP, EngineNotOurs, Stack, run
from tests.scenarios.crash.conftest import report_found

pytestmark = pytest.mark.docker

SECONDS = float(os.environ.get("CHAOS_S", "90"))
SEED = int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(10**6))
PAUSE_S = (1.0, 12.0)  # who is killed more often than that makes no progress
AWAY_S = 60.0  # longer than any lease
INSIDE = {"worker": 1, "fork": 2, "guardian": 3, "training": 4}  # generations below the trainer's first process
ONCE = ("all containers", "engine --restart", "engine --power-cut", "redis wiped", "redis away")
KILL_INSIDE = """
import os, signal, sys, time
from trainer.sandbox.procfs import process_table
generation, give_up = int(sys.argv[1]), time.monotonic() + 10
while time.monotonic() < give_up:
    table, line = process_table().values(), [1]
    while len(line) <= generation and (below := [each.pid for each in table if each.parent == line[-1]]):
        line.append(below[0])
    if len(line) > generation:
        sys.exit(os.kill(line[-1], signal.SIGKILL))
    time.sleep(0.05)
sys.exit("nobody there")
"""
LIVING = """
from pathlib import Path
from trainer.sandbox.procfs import descendants
for each in descendants(1):
    print(Path(f"/proc/{each.pid}/cmdline").read_text().replace("\\0", " "))
"""


@dataclass(frozen=True)
class Chaos:
    """Deaths, each counted under its victim's name when there was somebody to die."""

    stack: Stack
    chance: random.Random = field(default_factory=lambda: random.Random(SEED))
    killed: Counter[str] = field(default_factory=Counter)

    def strike_until(self, end: float, *, spared: str | None = None) -> None:
        """One victim after the other, with pauses in which the run gets on."""
        services = [service for service in STAY_UP if service != spared]
        while (pause_s := self.chance.uniform(*PAUSE_S)) < end - time.monotonic():
            time.sleep(pause_s)  # there is nothing to wait for: the moment is chance's
            victim = self.chance.choice([*services, *INSIDE, f"restart of {self.chance.choice(services)}"])
            self.killed[victim] += self.strike(victim)

    def strike(self, victim: str) -> bool:
        """Whether there was somebody."""
        if victim in INSIDE:
            dig = ("exec", "-T", "trainer", "python", "-c", KILL_INSIDE, str(INSIDE[victim]))
            return self.stack.compose(*dig, check=False).returncode in (0, 137)  # with the worker dies who killed it
        if victim in STAY_UP:
            return bool(self.stack.kill_running(victim))
        run("docker", "restart", self.stack.name(victim.removeprefix("restart of ")))
        return True

    def happen(self, what: str) -> None:
        """What must happen once."""
        try:
            match what.split():
                case ["engine", how]:
                    self.stack.restart_engine(how)
                case ["all", _]:
                    self.stack.kill_running(*STAY_UP)
                case ["redis", "wiped"]:
                    self.stack.wipe("redis", "/data")
                case _:
                    self.be_without_redis()
        except EngineNotOurs as reason:
            what = f"no {what}: {reason}"
        self.killed[what] += 1

    def be_without_redis(self) -> None:
        """It neither answers nor closes a connection; meanwhile others die."""
        self.stack.wait_until_healthy("redis")
        run("docker", "pause", self.stack.name("redis"))
        self.strike_until(time.monotonic() + AWAY_S, spared="redis")
        run("docker", "unpause", self.stack.name("redis"))


def test_run_of_random_deaths_loses_nothing_doubles_nothing_and_leaves_no_process(stack: Stack) -> None:
    chaos = Chaos(stack)
    print(f"CHAOS_SEED={SEED}")
    stack.up()
    stack.wait_for(FINISHED, stack.ask(FINISHED) + 1)

    began = time.monotonic()
    for number, what in enumerate(chaos.chance.sample(ONCE, len(ONCE)), start=1):
        chaos.strike_until(began + number * SECONDS / len(ONCE))
        chaos.happen(what)
    stack.compose("stop")
    goal = stack.ask(MEASURED) + 2
    with timed("two experiments and the end, after the chaos"):
        stack.up(EXPERIMENTS=str(goal))
        stack.wait_for_end()

    found = stack.audit()
    victims = ", ".join(f"{count} {victim}" for victim, count in chaos.killed.most_common())
    report_found(
        f"{time.monotonic() - began:.0f} s of chaos in containers, seed {SEED} ({victims})", found, chaos.killed.total()
    )
    assert found["faults"] == []
    assert found["experiments"] == goal
    living = stack.execute("trainer", "python", "-c", LIVING).splitlines()
    assert len(living) == 1, f"the worker alone should live: {living}"
