"""The repository under study: the user's own, or the default subject with a profile's start values, made here."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from researcher.journal.database import JOURNAL_FILE
from researcher.repository.recovery import COPY
from researcher.repository.repository import EDITABLE, PROGRAM, Workspace, create_repository, needs_repository
from researcher.source.knobs import set_knobs, set_ranges
from services.machine.state import Choices, State
from trainer.jobs import Profile

FIXED = "prepare.py"


def settle_subject(state: State, choices: Choices, profile: Profile) -> Path:
    """The repository under study, made here if it is the default one; looked at before anything takes time.

    Raises SubjectError for a repository that a night cannot begin with.
    """
    path = Path(choices.subject)
    if (state.journal / COPY).exists():
        return path  # of a run that has begun: the researcher itself makes good what is lost
    if path == state.subject and needs_repository(path):
        create_repository(path, render_subject(profile), f"The default subject, profile {profile.name}")
    workspace = Workspace(path)
    try:
        if not (state.journal / JOURNAL_FILE).exists():
            workspace.require_clean()
    finally:
        workspace.close()
    return path


def render_subject(profile: Profile) -> dict[str, str]:
    """The default subject's files with the start values of a profile."""
    folder = resources.files("trainer").joinpath("subject")
    texts = {name: folder.joinpath(name).read_text() for name in (EDITABLE, FIXED, PROGRAM)}
    texts[EDITABLE] = set_ranges(set_knobs(texts[EDITABLE], profile.knobs), profile.ranges)
    texts[FIXED] = set_knobs(texts[FIXED], profile.constants)
    return texts
