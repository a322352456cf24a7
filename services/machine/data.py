"""Prepares data under progress bars: the terminal's side of `trainer.data`."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from services.machine.installation import PackageMissing, installing
from trainer.data import Manifest, PreparationStep, ReaderMissing, prepare
from trainer.jobs import Profile


def prepare_data(
    profile: Profile, folder: Path, text: Path | None, console: Console, unseen: Path | None = None
) -> Manifest:
    """Download and prepare a profile's text into `folder`; existing data are only checked. `unseen` is a folder of
    private files for the unseen slice. Raises DataError, and PackageMissing without the reader of the text."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=False) as progress:
        bars: dict[str, TaskID] = {}

        def report(step: PreparationStep) -> None:
            if step.name not in bars:
                bars[step.name] = progress.add_task(f"{step.name} ({step.unit})", total=step.total)
            progress.update(bars[step.name], completed=step.done, total=step.total)
            if step.note:
                progress.console.print(step.note, soft_wrap=True, highlight=False)

        try:
            return prepare(profile, folder, text=text, unseen=unseen, report=report)
        except ReaderMissing as error:
            raise PackageMissing(str(error), f"install it: {installing('pyarrow')}") from error
