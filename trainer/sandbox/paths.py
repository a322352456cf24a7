"""What is a worker's own, and whom its candidates run as. Values only."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from trainer.sandbox.launch import User


@dataclass(frozen=True)
class WorkerConfig:
    """What is this worker's: folders of a profile's data, of results that stay (a checker has none), of work that does
    not; its name; the user that candidates run as, if not our own; its own cap of a GPU's memory; what no log shows.
    """

    data: Path
    trials: Path | None
    work: Path
    worker: str | None = None
    user: User | None = None
    vram_cap_mib: int | None = None
    secrets: tuple[str, ...] = field(default=(), repr=False)

    @property
    def results(self) -> Path:
        """Where a trial's result is kept; without it there are no trials."""
        assert self.trials is not None, "only a checker is without, and its closed table has no trials"
        return self.trials

    @property
    def disks(self) -> tuple[Path, ...]:
        """Where room is needed before anything is begun."""
        return (self.work,) if self.trials is None else (self.trials, self.work)

    @property
    def folder(self) -> Path:
        """Where a candidate works. Its name says nothing: who can tell a claim could be honest until then."""
        return self.work / "candidate"
