"""The repository under study: it is a git repository, and the researcher may write to it."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from researcher.repository.creation import needs_repository
from researcher.repository.repository import EDITABLE
from services.doctor.environment import Environment
from services.doctor.finding import Finding, fail, ok
from services.machine.state import StateError
from trainer.jobs.task import TASK_FILE

ROOT_USER = 0


def in_containers(facts: Environment, held: Mapping[str, str]) -> Finding:
    """Test SUBJECT_DIR with the rights of RESEARCHER_USER."""
    if "SUBJECT_DIR" not in held:
        return ok("subject", "the built-in one, in a volume")
    folder = facts.root / Path(held["SUBJECT_DIR"]).expanduser()
    uid, gid = map(int, held["RESEARCHER_USER"].split(":"))
    hand_over = f"sudo chown -R {uid}:{gid} {folder} && sudo chmod u+rwx {folder}"
    try:
        return _not_a_repository(folder) or _belonging(folder, uid, hand_over)
    except PermissionError:
        return fail("subject", f"{folder} cannot be read by this user", hand_over)


def _belonging(folder: Path, uid: int, hand_over: str) -> Finding:
    looked_at = {path: path.stat() for path in (folder, folder / ".git")}
    strange = {path: facts.st_uid for path, facts in looked_at.items() if facts.st_uid != uid}
    if not strange:
        if looked_at[folder].st_mode & stat.S_IRWXU != stat.S_IRWXU:
            return fail("subject", f"{folder} is closed to its owner {uid}", hand_over)
        return ok("subject", f"{folder}, owned by {uid}")
    path, owner = next(iter(strange.items()))
    found = f"{path} is owned by {owner}, and the researcher is {uid}"
    if set(strange) == set(looked_at) and set(strange.values()) == {owner} and owner != ROOT_USER:
        group = looked_at[folder].st_gid or owner
        return fail("subject", found, f"set RESEARCHER_USER={owner}:{group} in gpu.env")
    return fail("subject", found, hand_over)


def of_this_user(facts: Environment) -> Finding:
    """Test the repository with which the run was begun, else the built-in subject."""
    try:
        choices = facts.state.choices()
    except StateError as error:
        return fail("subject", error.found, f"move {facts.state.root} away")
    folder = (choices and facts.state.user_repository(choices)) or facts.state.subject
    try:
        if folder == facts.state.subject and needs_repository(folder):
            return ok("subject", "the built-in one, made at the next start")
        broken = _not_a_repository(folder, EDITABLE if choices is None else choices.script)
    except PermissionError:
        return fail("subject", f"{folder} cannot be read by this user", f'sudo chown -R "$USER" {folder}')
    if broken:
        return broken
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        return fail("subject", f"{folder} cannot be written by this user", f'sudo chown -R "$USER" {folder}')
    return ok("subject", str(folder))


def _not_a_repository(folder: Path, script: str = EDITABLE) -> Finding | None:
    if not folder.is_dir():
        return fail(
            "subject", f"{folder} is not there", f"git clone your repository to {folder}, or name another folder"
        )
    if not (folder / ".git").exists():
        return fail("subject", f"{folder} is no git repository", f"git -C {folder} init, add and commit its files")
    if not (folder / TASK_FILE).is_file() and not (folder / script).is_file():
        return fail("subject", f"{folder} holds no {script}", f"put {script} there and commit it")
    return None
