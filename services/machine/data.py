"""Prepares data under progress bars: the terminal's side of `trainer.data`."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from trainer.data import Manifest, PreparationStep, prepare
from trainer.jobs import Profile


def prepare_data(
    profile: Profile, folder: Path, text: Path | None, console: Console, unseen: Path | None = None
) -> Manifest:
    """Download and prepare a profile's text into `folder`; existing data are only checked. `unseen` is a folder of
    private files for the unseen slice. Raises DataError."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=False) as progress:
        bars: dict[str, TaskID] = {}

        def report(stage: PreparationStep) -> None:
            if stage.name not in bars:
                bars[stage.name] = progress.add_task(f"{stage.name} ({stage.unit})", total=stage.total)
            progress.update(bars[stage.name], completed=stage.done, total=stage.total)
            if stage.note:
                progress.console.print(stage.note, soft_wrap=True, highlight=False)

        return prepare(profile, folder, text=text, unseen=unseen, report=report)
