"""Texts of a few kilobytes, a profile small enough for them, the real plays, and servers named for their fault."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import pickle
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trainer.data import ROWS, Manifest, PreparationStep, prepare
from trainer.data.generated import SECRET
from trainer.data.plays import Plays
from trainer.data.shards import shard_name
from trainer.jobs import PROFILES, Profile

WORDS = (
    *("the", "night", "has", "seven", "moons", "and", "every", "river", "asks", "one", "more"),
    *("question", "of", "a", "patient", "stone", "—", "déjà", "vu,", "42", "times"),
)


def story(seed: int, sentences: int = 60) -> str:
    """Some paragraphs that no other seed yields."""
    chance = random.Random(seed)
    return "".join(
        " ".join(chance.choices(WORDS, k=12)).capitalize() + (".\n\n" if number % 5 == 4 else ". ")
        for number in range(sentences)
    )


def share_secret(of: Path, to: Path) -> None:
    """Two folders hold equal slices only where they share the secret that the unseen one is made by."""
    (to / "private").mkdir(parents=True)
    shutil.copy(of / SECRET, to / SECRET)


def as_it_was(folder: Path) -> str:
    """Make the folder what version 1 made; its digest then."""
    values = json.loads((folder / "manifest.json").read_text())
    for name in ("rows", "bytes"):
        del values[name]["unseen"]
    for name in ("sizes", "sha256"):
        del values[name][ROWS["unseen"]]
    for name in ("unseen", "earlier_digest"):
        del values[name]
    values |= {"format": 1, "digest": "1" * 64}
    (folder / "manifest.json").write_text(json.dumps(values))
    (folder / ROWS["unseen"]).unlink()
    (folder / SECRET).unlink(missing_ok=True)
    return str(values["digest"])


@pytest.fixture(scope="session")
def tiny() -> Profile:
    constants = {"MAX_SEQ_LEN": 32, "TIME_BUDGET": 1, "VOCAB_SIZE": 300}
    return dataclasses.replace(PROFILES["cpu"], name="tiny", constants=constants)


@pytest.fixture
def own_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    (folder / "more").mkdir(parents=True)
    for seed in range(8):
        name = f"more/{seed}.md" if seed % 2 else f"{seed}.txt"
        (folder / name).write_text(story(seed), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def plays(tmp_path_factory: pytest.TempPathFactory) -> Plays:
    """The real package from the index, once per session."""
    text = Plays(tmp_path_factory.mktemp("plays"))
    text.fetch(lambda stage: None)
    return text


@dataclasses.dataclass(frozen=True)
class Prepared:
    folder: Path
    manifest: Manifest
    stages: list[PreparationStep]


@pytest.fixture(scope="session")
def prepared_plays(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """The cpu profile's real data, prepared once for all pytest workers of a run."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if hasattr(request.config, "workerinput") else own  # a worker's folder is in that of its run
    outcome = shared / "prepared-plays"
    with (shared / "prepared-plays.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not outcome.exists():
            outcome.write_bytes(pickle.dumps(prepared_from(request.getfixturevalue("plays"), shared / "cpu")))
    found: Prepared = pickle.loads(outcome.read_bytes())
    return found


def prepared_from(plays: Plays, folder: Path) -> Prepared:
    """Prepare the cpu profile's data from the package that is already here."""
    source = folder / "private" / "source"
    source.mkdir(parents=True)
    for package in plays.folder.iterdir():
        (source / package.name).write_bytes(package.read_bytes())
    stages: list[PreparationStep] = []
    return Prepared(folder, prepare(PROFILES["cpu"], folder, report=stages.append), stages)


@pytest.fixture
def shard_folder(tmp_path: Path) -> Path:
    """Two training shards and the pinned one; the first training document also stands in the pinned shard."""
    folder = tmp_path / "hub"
    folder.mkdir()
    write_shard(folder / shard_name(0), [story(1000), *map(story, range(40))])
    write_shard(folder / shard_name(1), [story(seed) for seed in range(40, 80)])
    write_shard(folder / shard_name(6542), [story(seed) for seed in range(1000, 1020)])
    return folder


def write_shard(path: Path, texts: list[str]) -> None:
    pq.write_table(pa.table({"text": texts, "id": list(range(len(texts)))}), path, row_group_size=16)


class FileServer(BaseHTTPRequestHandler):
    """Serves one content, knows ranges."""

    content = b""
    asked: list[str | None]

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.asked.append(asked)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        if start >= len(self.content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(self.content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        self.send_header("Content-Length", str(len(self.content) - start))
        self.end_headers()
        self.send_body(self.content[start:])

    def send_body(self, body: bytes) -> None:
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Silent: what was asked is in `asked`."""


class DroppingServer(FileServer):
    """Promises all and hangs up after three tenths of the file, in every answer."""

    def send_body(self, body: bytes) -> None:
        self.wfile.write(body[: 3 * len(self.content) // 10])


class ForgetfulServer(FileServer):
    """Hangs up in the middle of its first answer, and knows no ranges: every answer is the whole file."""

    def do_GET(self) -> None:
        self.asked.append(self.headers.get("Range"))
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content[: 3000 if len(self.asked) == 1 else None])


class OverloadedServer(FileServer):
    """Always 503."""

    status = 503

    def do_GET(self) -> None:
        self.asked.append(self.headers.get("Range"))
        self.send_response(self.status)
        self.send_header("Content-Length", "0")
        self.end_headers()


class EmptyServer(OverloadedServer):
    """Always 404."""

    status = 404


@dataclasses.dataclass(frozen=True)
class Serving:
    url: str
    asked: list[str | None]


Serve = Callable[[type[FileServer], bytes], Serving]


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers: list[tuple[ThreadingHTTPServer, threading.Thread]] = []

    def start(kind: type[FileServer], content: bytes) -> Serving:
        handler = type(kind.__name__, (kind,), {"content": content, "asked": []})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        servers.append((server, thread))
        return Serving(f"http://127.0.0.1:{server.server_port}", handler.asked)

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()
