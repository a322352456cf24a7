"""The subject before a run: the user's own repository, or the default subject with a profile's start values."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from researcher.errors import SubjectError
from researcher.files import read_text
from researcher.journal.database import JOURNAL_FILE
from researcher.repository.creation import create_repository, needs_repository
from researcher.repository.earlier_runs import COPY
from researcher.repository.repository import EDITABLE, PROGRAM, Workspace
from researcher.source.knobs import set_knobs, set_ranges
from services.machine.state import RunConfig, State
from trainer.jobs import Profile
from trainer.jobs.task import TASK_FILE

FIXED = "prepare.py"
_OUR_DATA = "OVERNIGHT_DATA"  # the variable that every prepare.py of Overnight reads


def settle_subject(state: State, user: Path | None, profile: Profile, script: str = EDITABLE) -> None:
    """Create the default subject if the user has no repository; check the repository before any slow step.

    `script` is the user's name of train.py.
    Raises SubjectError for a repository with which a run cannot begin.
    """
    if (state.journal / COPY).exists():
        return  # a run has begun, and the researcher itself recovers a lost repository
    if user is None and needs_repository(state.subject):
        create_repository(state.subject, render_subject(profile), f"The default subject, profile {profile.name}")
    workspace = Workspace(user or state.subject, script=script)
    try:
        if not (state.journal / JOURNAL_FILE).exists():
            workspace.require_clean()
    finally:
        workspace.close()


def has_own_prepare(repository: Path) -> bool:
    """Return whether a repository has a prepare.py that is not Overnight's. Raises NotText."""
    fixed = repository / FIXED
    return fixed.is_file() and _OUR_DATA not in read_text(fixed)


def require_its_data(repository: Path | None, choices: RunConfig) -> None:
    """Raise SubjectError if a repository has a prepare.py or a task of its own, and the data are Overnight's."""
    own = _untaken(repository, choices)
    if own is not None:
        raise SubjectError(
            f"{own} of {repository} names data of its own, and these are Overnight's, because the container that "
            "prepares them cannot read the repository; next: `chmod -R o+rX` the folder that SUBJECT_DIR names, and "
            "remove the volume data"
        )


def require_taken(repository: Path | None, choices: RunConfig, state: Path) -> None:
    """Raise SubjectError if a repository has a prepare.py or a task of its own that no `overnight init` has taken."""
    if (own := _untaken(repository, choices)) is not None:
        raise SubjectError(
            f"{repository} has its own {own}, and `overnight init` has not read it yet; next: "
            f"overnight init --subject {repository} --state {state}"
        )


def _untaken(repository: Path | None, choices: RunConfig) -> str | None:
    """Return the name of the file in a repository that names data of its own, or None if the run has these data."""
    if repository is None or choices.constants is not None or choices.task is not None:
        return None
    if (repository / TASK_FILE).is_file():
        return TASK_FILE
    return FIXED if has_own_prepare(repository) else None


def repository_of(state: State) -> Path:
    """Return the repository with the run's commits: for a run that an earlier version ended, this is the user's own."""
    user = state.user_repository(state.require_run())
    return state.subject if user is None or (state.subject / ".git").exists() else user


def render_subject(profile: Profile) -> dict[str, str]:
    """Return the default subject's files, by name, with the start values of a profile."""
    folder = resources.files("trainer").joinpath("subject")
    texts = {name: folder.joinpath(name).read_text(encoding="utf-8") for name in (EDITABLE, FIXED, PROGRAM)}
    texts[EDITABLE] = set_ranges(set_knobs(texts[EDITABLE], profile.knobs), profile.ranges)
    texts[FIXED] = set_knobs(texts[FIXED], profile.constants)
    return texts
