"""The settings of a worker: its folders, its name, and the user of its candidates."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from trainer.sandbox.launch import User

COMPILED = "compile-cache"  # beside the folders of trials, and no trial has this name


@dataclass(frozen=True)
class WorkerConfig:
    """The settings of a worker.

    `data` is the folder of a profile's data, `trials` the folder of kept results (None for a dry-run worker), and
    `work` a folder that is wiped. `user` is the candidates' user, or None for the worker's own. `vram_cap_mib` caps the
    GPU memory of each trial. `secrets` never appear in a log. `held_fds` are descriptors that stay open as long as a
    guardian lives, and that no candidate gets.
    """

    data: Path
    trials: Path | None
    work: Path
    worker: str | None = None
    user: User | None = None
    vram_cap_mib: int | None = None
    secrets: tuple[str, ...] = field(default=(), repr=False)
    held_fds: tuple[int, ...] = ()

    @property
    def results(self) -> Path:
        """The folder of kept results. Only a worker that runs trials has one."""
        assert self.trials is not None, "only a dry-run worker is without, and its closed table has no trials"
        return self.trials

    @property
    def compiled(self) -> Path:
        """The folder of the caches that trials start with. Only a worker that runs trials has one."""
        return self.results / COMPILED

    @property
    def disks(self) -> tuple[Path, ...]:
        """The folders whose disks need room before a job begins."""
        return (self.work,) if self.trials is None else (self.trials, self.work)

    @property
    def folder(self) -> Path:
        """The work folder of a candidate.

        Its name is the same for every kind of trial, so that a candidate cannot recognise a claim and behave
        differently in it.
        """
        return self.work / "candidate"
