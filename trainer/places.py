"""What is a trainer's own, and whom its candidates run as. Values only."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from trainer.launch import User


@dataclass(frozen=True)
class Places:
    """What is this trainer's: folders of a profile's data, of results that stay, of work that does not; its worker's
    name; the user that candidates run as, if not our own; its own cap of a card's memory; what no log may show."""

    data: Path
    trials: Path
    work: Path
    worker: str | None = None
    user: User | None = None
    vram_cap_mib: int | None = None
    secrets: tuple[str, ...] = field(default=(), repr=False)

    @property
    def folder(self) -> Path:
        """Where a candidate works. Its name says nothing: who can tell a claim could be honest until then."""
        return self.work / "candidate"
