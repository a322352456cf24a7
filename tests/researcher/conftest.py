"""A night without training: a real server, a real repository, the researcher as a process, a scripted trainer."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from researcher.errors import JournalError
from researcher.journal.reader import History
from researcher.repository.repository import create_repository
from services.redis.server import RedisServer
from tests.servers import open_server
from trainer.jobs import Bus, connect

SUBJECT = '''\
"""A subject that is never run: the scripted trainer reads its LEVEL."""

from prepare import evaluate_bpb, make_dataloader

LEVEL = 1.8  # the score itself; range 1.0..2.0
WIDTH = 64  # means nothing; range 16..256 pow2

model = object()
loader = make_dataloader(None, 1, 1, "train")
print(evaluate_bpb(model, None, WIDTH))
'''
PREPARE = "def make_dataloader(*_): ...\ndef evaluate_bpb(*_): ...\n"
FILES = {"train.py": SUBJECT, "prepare.py": PREPARE, "program.md": "Go down.\n"}
DEADLINE_S = 90.0


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with open_server(tmp_path_factory.mktemp("server")) as started:
        yield started


class ScriptedNight:
    """The researcher and its surroundings as processes of their own."""

    def __init__(self, folder: Path, server: RedisServer, files: dict[str, str] = FILES) -> None:
        self.subject = folder / "subject"
        self.journal = folder / "journal"
        self.server = server
        self.bus = Bus(connect(server.url, password=server.password))
        self.password_file = folder / "password"
        self.password_file.write_text(server.password or "")
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        (folder / "data").mkdir()
        (folder / "data" / "manifest.json").write_text(json.dumps({"digest": "d" * 64}))
        create_repository(self.subject, files, "s")

    def start_trainer(self) -> subprocess.Popen[bytes]:
        """The scripted trainer."""
        argv = ["-m", "tests.doubles.scripted_trainer", "--redis", self.server.url]
        return self._start([*argv, "--password-file", str(self.password_file)], {})

    def start_researcher(self, **settings: object) -> subprocess.Popen[bytes]:
        """`python -m researcher` with settings on top of the usual ones."""
        usual = {
            "REDIS_URL": self.server.url,
            "REDIS_PASSWORD_FILE": self.password_file,
            "SUBJECT_DIR": self.subject,
            "JOURNAL_DIR": self.journal,
            "DATA_DIR": self._folder / "data",
            "PROPOSER": "optimizer",
            "TAG": "night",
            "SEED": 7,
            "OLLAMA_HOST": "http://127.0.0.1:9",
        }
        return self._start(["-m", "researcher"], {key: str(value) for key, value in (usual | settings).items()})

    def start_container(self, **settings: object) -> subprocess.Popen[bytes]:
        """The entry point of the researcher's container on the same state."""
        usual = {
            "OVERNIGHT_STATE": self._folder,
            "REDIS_URL": self.server.url,
            "REDIS_PASSWORD_FILE": self.password_file,
            "PROPOSER": "optimizer",
            "LLM": "none",
        }
        return self._start(
            ["-m", "services.researcher.start"], {key: str(value) for key, value in (usual | settings).items()}
        )

    def _start(self, argv: list[str], env: dict[str, str]) -> subprocess.Popen[bytes]:
        with (self._folder / "output.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *argv], env=os.environ | env, stdout=log, stderr=log, cwd=Path(__file__).parents[2]
            )
        self._processes.append(process)
        return process

    def output(self) -> str:
        """Everything the processes said; nothing before the first of them is there."""
        log = self._folder / "output.log"
        return log.read_text() if log.exists() else ""

    def wait_until(self, condition: Callable[[History], bool], what: str) -> None:
        """Look until the journal satisfies `condition`."""
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            with contextlib.suppress(JournalError), History(self.journal) as history:
                if history.run() is not None and condition(history):
                    return
            time.sleep(0.05)
        raise AssertionError(f"waited {DEADLINE_S} s for: {what}\n{self.output()[-4000:]}")

    def end(self) -> None:
        """Kill what is left."""
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait(10)
        self.bus.connection.flushall()
        self.bus.connection.close()


@pytest.fixture
def night(tmp_path: Path, server: RedisServer) -> Iterator[ScriptedNight]:
    made = ScriptedNight(tmp_path, server)
    yield made
    made.end()
