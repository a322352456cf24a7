"""The subject before a run: the user's own repository, or the default one with a profile's start values, made here."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from researcher.journal.database import JOURNAL_FILE
from researcher.repository.recovery import COPY
from researcher.repository.repository import EDITABLE, PROGRAM, Workspace, create_repository, needs_repository
from researcher.source.knobs import set_knobs, set_ranges
from services.machine.state import State
from trainer.jobs import Profile

FIXED = "prepare.py"


def settle_subject(state: State, user: Path | None, profile: Profile) -> None:
    """Make the default subject where the user brings no repository; look at theirs before anything takes time.

    Raises SubjectError for a repository that a run cannot begin with.
    """
    if (state.journal / COPY).exists():
        return  # of a run that has begun: the researcher itself makes good what is lost
    if user is None and needs_repository(state.subject):
        create_repository(state.subject, render_subject(profile), f"The default subject, profile {profile.name}")
    workspace = Workspace(user or state.subject)
    try:
        if not (state.journal / JOURNAL_FILE).exists():
            workspace.require_clean()
    finally:
        workspace.close()


def repository_of(state: State) -> Path:
    """Where the commits of the run are: in the user's own repository for one that an earlier version ended."""
    return state.subject if (state.subject / ".git").exists() else Path(state.require_run().subject)


def render_subject(profile: Profile) -> dict[str, str]:
    """The default subject's files with the start values of a profile."""
    folder = resources.files("trainer").joinpath("subject")
    texts = {name: folder.joinpath(name).read_text() for name in (EDITABLE, FIXED, PROGRAM)}
    texts[EDITABLE] = set_ranges(set_knobs(texts[EDITABLE], profile.knobs), profile.ranges)
    texts[FIXED] = set_knobs(texts[FIXED], profile.constants)
    return texts
