"""Runs a user's prepare.py once in the sandbox, with limits on time, size and output.

Promises: prepare.py can read the system, its repository and the granted folders, can write only a folder that is
removed, and has no network. Its results are files that this module opened and a small JSON text, all unverified. When
`dump` returns, no process of prepare.py runs. Does not cover the requirements on the data: see `trainer.data.adopted`.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

from trainer.candidate.prepare_export import REFUSED, DumpOrders
from trainer.sandbox.cleanup import clear
from trainer.sandbox.landlock import READ, abi
from trainer.sandbox.launch import ExitReport, GuardedProcess, Launch
from trainer.sandbox.output import LogSink
from trainer.sandbox.visible_paths import grants

WALL_S, STALL_S = 3600.0, 300.0
_LOOK_S = 0.2
_LOG_KIB = 64
_ABOUT_BYTES = 4096
_MISSING = "ModuleNotFoundError: No module named "


class DumpFault(Exception):
    """Raised when prepare.py gives no usable data. The message names the reason and the next step."""


@dataclass(frozen=True)
class Wanted:
    """The text of a prepare.py, the folders that it may read beside its repository, and the wanted numbers of rows.

    `environment` are variables that it gets beside the usual ones.
    """

    repository: Path
    prepare: str
    readable: tuple[Path, ...]
    context: int
    val_rows: int
    train_rows: int
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Dumped:
    """The files of raw numbers (little-endian, without a header), and the reported vocabulary size and BOS token."""

    val: Path
    train: Path
    table: Path
    vocab_size: int
    bos: int


def dump(
    wanted: Wanted, scratch: Path, report: Callable[[int], None], wall_s: float = WALL_S, stall_s: float = STALL_S
) -> Dumped:
    """Run prepare.py and store its data below `scratch`. `report` gets the number of training rows so far.

    The run ends after `wall_s` seconds, or after `stall_s` seconds without new data. Raise DumpFault.
    """
    if not abi():
        raise DumpFault("this kernel has no Landlock, so nothing would keep prepare.py to its folders; use Linux 5.13")
    scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    work = scratch / "work"
    clear(work, None)
    files = [(scratch / name).open("w+b") for name in ("val.raw", "train.raw", "table.raw", "about.json")]
    try:
        _run(wanted, work, files, report, wall_s, stall_s)
        files[3].seek(0)
        about = files[3].read(_ABOUT_BYTES)
    finally:
        clear(work, None)
        for file in files:
            file.close()
    try:
        facts = json.loads(about)
        vocab_size, bos = int(facts["vocab_size"]), int(facts["bos"])
    except (ValueError, KeyError, TypeError) as error:
        raise DumpFault(f"prepare.py of {wanted.repository} ended without telling of its vocabulary") from error
    return Dumped(scratch / "val.raw", scratch / "train.raw", scratch / "table.raw", vocab_size, bos)


def _run(
    wanted: Wanted,
    work: Path,
    files: Sequence[IO[bytes]],
    report: Callable[[int], None],
    wall_s: float,
    stall_s: float,
) -> None:
    log = LogSink(_LOG_KIB, lambda _: None, bytes)
    guarded = GuardedProcess.start(_launch(wanted, work, [file.fileno() for file in files], wall_s))
    stalled = False
    try:
        grown, grown_at = 0, time.monotonic()
        while not stalled and not select.select([guarded.report_fd], [], [], 0)[0]:
            select.select([guarded.report_fd, guarded.log_fd], [], [], _LOOK_S)
            _feed(log, guarded.log_fd)
            size = sum(os.fstat(file.fileno()).st_size for file in files)
            if size != grown:
                grown, grown_at = size, time.monotonic()
                report(os.fstat(files[1].fileno()).st_size // (2 * (wanted.context + 1)))
            stalled = time.monotonic() - grown_at > stall_s
        if stalled:
            guarded.stop()
        ending = guarded.ending()
        _feed(log, guarded.log_fd)
    finally:
        guarded.close()
    log.finish()
    last = (log.last_lines(1) or ["it printed nothing"])[0]
    if stalled:
        raise DumpFault(
            f"prepare.py of {wanted.repository} gave nothing for {stall_s:g} s, so it was ended; look at it"
        )
    _require_well(wanted, ending, last, wall_s)


def _feed(log: LogSink, fd: int) -> None:
    """Read the log once. A loop could run for ever, because prepare.py may print without end."""
    try:
        log.feed(os.read(fd, 2**20))
    except BlockingIOError:
        return


def _require_well(wanted: Wanted, ending: ExitReport | None, last: str, wall_s: float) -> None:
    if ending is not None and ending.ended_by == "wall limit":
        raise DumpFault(
            f"prepare.py of {wanted.repository} was not done after {wall_s:g} s; ask for less: --train-rows"
        )
    if ending is not None and ending.exit_code == REFUSED:
        raise DumpFault(f"prepare.py of {wanted.repository} cannot be used: {last}")
    if ending is None or ending.exit_code != 0:
        if last.startswith(_MISSING):
            pip = Path(sys.executable).with_name("pip")
            raise DumpFault(f"prepare.py needs a package that is not here ({last}); install it: {pip} install NAME")
        raise DumpFault(
            f"prepare.py of {wanted.repository} failed: {last}. If its downloads are not there yet, run it first; if "
            "it reads another folder, name that: --read FOLDER"
        )


def _launch(wanted: Wanted, work: Path, fds: list[int], wall_s: float) -> Launch:
    val_fd, train_fd, table_fd, about_fd = fds
    orders = DumpOrders(
        repository=str(wanted.repository),
        context=wanted.context,
        val_rows=wanted.val_rows,
        train_rows=wanted.train_rows,
        val_fd=val_fd,
        train_fd=train_fd,
        table_fd=table_fd,
        about_fd=about_fd,
    )
    home = Path.home()
    return Launch(
        folder=work.absolute(),
        files={"prepare.py": wanted.prepare},
        orders=json.dumps(asdict(orders)),
        env={
            "HOME": str(home),
            "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", str(home / ".cache")),
            **wanted.environment,
            "HF_HUB_OFFLINE": "1",
        },
        keep_fds=tuple(fds),
        wall_limit_s=wall_s,
        file_mib=1 + max(wanted.val_rows, wanted.train_rows) * (wanted.context + 1) * 2 // 2**20,
        processes=512,
        grants=[*grants(None), *((str(path), READ) for path in (wanted.repository, *wanted.readable))],
        module="trainer.candidate.prepare_export",
    )
