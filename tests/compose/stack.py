"""A running stack of a checkout: compose as a user calls it, kills as a machine does them, and an eye from outside.

The eye is a container of its own with the stack's volumes, so that what is seen does not depend on what is killed.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests import ROOT, TESTS
from tests.compose.checkout import BASE

CPU = ("-f", "compose.yaml", "-f", "services/compose.cpu.yaml")
STAY_UP = ("redis", "model", "ollama", "trainer", "dry-run-worker", "researcher", "dashboard")
USER = "1000:1000"
DEADLINE_S = 600.0
CHECKER = TESTS / "scenarios" / "crash" / "checker.py"
ENGINE = ROOT / "scripts" / "dev" / "docker-engine"
QUERY = """
import json, sqlite3, sys
try:
    journal = sqlite3.connect("file:/state/journal/journal.db?mode=ro", uri=True, timeout=10)
    print(json.dumps(journal.execute(sys.argv[1]).fetchall()))
except sqlite3.OperationalError as error:
    if "unable to open" not in str(error) and "no such table" not in str(error):
        raise
    print("[]")  # not made yet
"""
MEASURED = "SELECT count(*) FROM experiment WHERE number > 0 AND decision IS NOT NULL AND outcome <> 'rejected'"
FINISHED = "SELECT count(*) FROM trial WHERE state = 'finished'"


class EngineNotOurs(Exception):
    """This engine must not be stopped; the message says why."""


@dataclass(frozen=True)
class Stack:
    """One compose project. `shell` is what the user's shell says besides gpu.env."""

    project: str
    root: Path
    shell: Mapping[str, str] = field(default_factory=dict)
    user: str = USER

    def environment(self, **more: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "DOCKER_HOST")}
        usual = {"COMPOSE_PROJECT_NAME": self.project, "DOCKER_BUILDKIT": "1", "PAGE_PORT": "0"}
        return kept | usual | {**self.shell, **more}

    def compose(self, *arguments: str, check: bool = True, **shell: str) -> subprocess.CompletedProcess[str]:
        return run("docker", "compose", *CPU, *arguments, cwd=self.root, env=self.environment(**shell), check=check)

    def up(self, **shell: str) -> None:
        self.compose("up", "--detach", "--wait", **shell)

    def execute(self, service: str, *command: str, check: bool = True) -> str:
        """What a command in a service's container prints."""
        return self.compose("exec", "-T", service, *command, check=check).stdout

    def name(self, service: str) -> str:
        """Its container's."""
        return f"{self.project}-{service}-1"

    def container(self, service: str) -> dict[str, Any]:
        """As the engine describes it, also when it has ended."""
        described: dict[str, Any] = json.loads(run("docker", "inspect", self.name(service)).stdout)[0]
        return described

    def kill(self, *services: str) -> None:
        """SIGKILL of the first processes of containers that run."""
        assert self.kill_running(*services) == len(services), "not running"

    def kill_running(self, *services: str) -> int:
        """The same of those that run; their number. `docker kill` would count as a stop that somebody asked for."""
        pids = [str(pid) for service in services if (pid := self.container(service)["State"]["Pid"])]
        if pids:
            run("docker", "run", "--rm", "--pid", "host", BASE, "sh", "-c", f"kill -KILL {' '.join(pids)} || true")
        return len(pids)

    def wipe(self, service: str, place: str) -> None:
        """It is stopped at once, all that it keeps at `place` is gone, and it starts again."""
        run("docker", "stop", "--time", "0", self.name(service))
        volumes = ("--volumes-from", self.name(service))
        run("docker", "run", "--rm", *volumes, BASE, "find", place, "-mindepth", "1", "-delete")
        run("docker", "start", self.name(service))

    def restart_engine(self, how: str) -> None:
        """As scripts/dev/docker-engine does it. Raises EngineNotOurs."""
        others = set(run("docker", "ps", "--format", "{{.Names}}").stdout.split())
        others -= {self.eye, *map(self.name, STAY_UP)}
        if others:
            raise EngineNotOurs(f"other containers run on it and would be stopped: {', '.join(sorted(others))}")
        restarted = run(str(ENGINE), how, check=False)
        if "no engine runs that this script started" in restarted.stderr:
            raise EngineNotOurs("scripts/dev/docker-engine did not start it")
        assert restarted.returncode == 0, restarted.stderr

    # The eye

    @property
    def eye(self) -> str:
        return f"{self.project}-eye"

    def open_eye(self) -> None:
        places = {name: f"{self.project}_{name}" for name in ("subject", "journal", "trials")}
        mounts = [word for name, place in places.items() for word in ("--volume", f"{place}:/state/{name}")]
        usual = ("--detach", "--init", "--restart", "always", "--network", "none", "--user", self.user)
        run("docker", "run", *usual, "--name", self.eye, *mounts, BASE, "sleep", "infinity")

    def seen(self, *command: str) -> str:
        return run("docker", "exec", self.eye, *command).stdout

    def rows(self, query: str) -> list[list[Any]]:
        """What the journal answers; nothing before it is made."""
        found: list[list[Any]] = json.loads(self.seen("python3", "-c", QUERY, query))
        return found

    def ask(self, query: str) -> Any:
        """The first value of the first row; None without a row."""
        rows = self.rows(query)
        return rows[0][0] if rows else None

    def audit(self) -> dict[str, Any]:
        """What tests/scenarios/crash/checker.py found."""
        done = run("docker", "exec", "--interactive", self.eye, "python3", "-", "/state", text=CHECKER.read_text())
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def best(self) -> str:
        """The best train.py, as soon as there is one."""
        self.wait_for("SELECT count(incumbent) FROM run", 1)
        return self.execute("researcher", "overnight", "best", "--source")

    def submit(self, name: str, source: str) -> tuple[str, str]:
        """Have a train.py of one's own measured; its outcome and its log."""
        usual = ("docker", "compose", *CPU, "exec", "-T", "researcher")
        run(*usual, "sh", "-c", f"cat >/tmp/{name}", cwd=self.root, env=self.environment(), text=source)
        self.execute("researcher", "overnight", "submit", f"/tmp/{name}")
        self.wait_for(f"SELECT count(*) FROM experiment WHERE title = 'submitted: {name}' AND state = 'applied'", 1)
        ((trial, outcome),) = self.rows(
            "SELECT run.tag || '-' || experiment.number || '-t' || trial.number || '-a' || attempt, trial.outcome"
            " FROM trial JOIN experiment ON experiment.id = trial.experiment JOIN run ON run.id = trial.run"
            f" WHERE title = 'submitted: {name}'"
        )
        return outcome, self.seen("cat", f"/state/trials/{trial}/log.txt")

    def wait_for(self, query: str, wanted: int) -> None:
        """Until the journal answers with at least `wanted`."""
        self._wait_while_trials_end(lambda: (self.ask(query) or 0) >= wanted, f"{query}: not {wanted}")

    def wait_for_end(self) -> None:
        """Until the researcher says that the run has ended."""
        told = ("logs", "--no-log-prefix", "--tail", "1", "researcher")
        self._wait_while_trials_end(lambda: "goes on\n" in self.compose(*told).stdout, "the run does not end")

    def _wait_while_trials_end(self, is_there: Callable[[], bool], what: str) -> None:
        """A busy machine may take its time: this fails where no trial ends within the deadline."""
        finished, give_up = 0, time.monotonic() + DEADLINE_S
        while not is_there():
            if time.monotonic() > give_up:
                before, finished = finished, self.ask(FINISHED) or 0
                assert finished > before, f"{what}, and no trial ended in {DEADLINE_S:.0f} s\n{self.last_words()}"
                give_up = time.monotonic() + DEADLINE_S
            time.sleep(0.3)

    def wait_until_healthy(self, *services: str) -> None:
        """All of them where none is named."""
        give_up = time.monotonic() + DEADLINE_S
        while not all(self.is_healthy(service) for service in services or STAY_UP):
            assert time.monotonic() < give_up, f"not healthy again\n{self.last_words()}"
            time.sleep(0.3)

    def is_healthy(self, service: str) -> bool:
        state = self.container(service)["State"]
        return bool(state["Running"] and state["Health"]["Status"] == "healthy")

    def last_words(self) -> str:
        shown = self.compose("ps", "--all", check=False).stdout
        return shown + self.compose("logs", "--tail", "25", check=False).stdout

    def remove(self) -> None:
        """Containers, networks and volumes of this project and of no other; by its name, so no file is needed."""
        run("docker", "rm", "--force", self.eye, check=False)
        gone = ("down", "--volumes", "--timeout", "5")
        down = run("docker", "compose", "--project-name", self.project, *gone, cwd=Path("/"))
        left = run("docker", "ps", "--all", "--filter", f"name=^{self.project}-", "--format", "{{.Names}} {{.Status}}")
        assert not left.stdout, f"not removed: {left.stdout}{down.stderr}"


@contextmanager
def removed_at_the_end(stack: Stack) -> Iterator[Stack]:
    stack.remove()  # of a run that was killed
    try:
        yield stack
    finally:
        stack.remove()


def spoiled(source: str, before: str = "") -> str:
    """A train.py that does something first, and then trains too badly to be kept."""
    return before + "\n" + re.sub(r"^MATRIX_LR = \S+", "MATRIX_LR = 1e-6", source, flags=re.MULTILINE)


def run(
    *command: str, cwd: Path | None = None, env: dict[str, str] | None = None, check: bool = True, text: str = ""
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, input=text, check=False)
    if check:
        assert done.returncode == 0, (
            f"{' '.join(command)[:300]}: {done.returncode}\n{done.stdout[-4000:]}{done.stderr[-6000:]}"
        )
    return done
