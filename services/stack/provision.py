"""`python -m services.stack.provision`: makes the passwords of the stack's services and gives volumes their owners,
before any service starts.

It runs as root with CHOWN, DAC_OVERRIDE and FOWNER, at every `up`; the second time it changes nothing. It never changes
an existing password, and only inspects a user's own repository. It does not understand access lists beyond owner, group
and mode.
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
import stat
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from services.redis.acl import DASHBOARD, SERVICES, acl_file

REFUSED = 2
PASSWORD, USERS, TOKEN = "password", "users.acl", "token"


@dataclass(frozen=True)
class Owner:
    """The numbers of a user and a group."""

    uid: int
    gid: int

    def __str__(self) -> str:
        return f"{self.uid}:{self.gid}"


ROOT = Owner(0, 0)
REDIS = Owner(999, 999)  # the user of the image redis
OLLAMA = Owner(64002, 64002)


@dataclass(frozen=True)
class Rights:
    """The owner and the mode of a file or folder."""

    owner: Owner
    mode: int

    def let(self, owner: Owner, wanted: int) -> bool:
        """Whether `owner`, in no other group, may do everything in `wanted`, given as the mode bits for others."""
        shift = 6 if owner.uid == self.owner.uid else 3 if owner.gid == self.owner.gid else 0
        return (self.mode >> shift) & wanted == wanted


class Refused(Exception):
    """A fault that only the user can fix; the message says what, where and by which command."""


def researcher_from(text: str) -> Owner:
    """Return the owner that RESEARCHER_USER names. Raises Refused if it is not uid:gid, or is root."""
    found = re.fullmatch(r"(\d+):(\d+)", text)
    if found is None or int(found[1]) == 0:
        raise Refused(
            f"RESEARCHER_USER={text} is not uid:gid in numbers, or it is root's; "
            "next: write RESEARCHER_USER=1000:1000, for example, into gpu.env"
        )
    return Owner(int(found[1]), int(found[2]))


def volumes(state: Path, secret: Path, researcher: Owner) -> dict[Path, Rights]:
    """Return the rights of each volume's folder; the files in it get the same owner."""
    return {
        secret / "redis": Rights(REDIS, 0o700),
        secret / "trainer": Rights(ROOT, 0o700),
        secret / "dry-run-worker": Rights(ROOT, 0o700),
        secret / "researcher": Rights(researcher, 0o700),
        secret / "dashboard": Rights(researcher, 0o700),
        secret / "client": Rights(ROOT, 0o700),  # no container mounts it; it is for users who may read volumes
        state / "redis": Rights(REDIS, 0o700),
        state / "subject": Rights(researcher, 0o755),
        state / "journal": Rights(researcher, 0o755),
        state / "trials": Rights(Owner(ROOT.uid, researcher.gid), 0o750),  # the researcher reads the logs
        state / "data": Rights(ROOT, 0o755),  # private folders in it have modes of their own
        state / "models": Rights(OLLAMA, 0o755),
    }


def to_change(wanted: Mapping[Path, Rights], found: Mapping[Path, Rights]) -> dict[Path, Rights]:
    """Return the volumes whose rights differ from the wanted ones."""
    return {path: rights for path, rights in wanted.items() if found[path] != rights}


def complaint(subject: str, at: str, found: Rights, top: Rights, researcher: Owner) -> str:
    """Return why the researcher cannot work in the user's repository, with the command that fixes it."""
    if top.owner.uid in (ROOT.uid, researcher.uid):
        remedy = f"next: sudo chown -R {researcher} {subject} && sudo chmod -R u+rwX {subject}"
    else:
        remedy = f"next: write RESEARCHER_USER={top.owner} into gpu.env"
    return (
        f"SUBJECT_DIR {subject}: {at} belongs to {found.owner} (mode {found.mode:o}) and the researcher, {researcher}, "
        f"cannot write there; {remedy}"
    )


def main(arguments: list[str] | None = None) -> int:
    """Print one line about the changes or the fault; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m services.stack.provision", description="Passwords and owners of volumes."
    )
    parser.add_argument("--secrets", type=Path, default=Path("/secrets"), help="a folder below it for each service")
    parser.add_argument("--state", type=Path, default=Path("/state"), help="the volumes below it")
    options = parser.parse_args(arguments)
    try:
        researcher = researcher_from(os.environ.get("RESEARCHER_USER") or "1000:1000")
        subject = os.environ.get("SUBJECT_DIR")
        done = prepare(options.state, options.secrets, researcher, subject)
    except Refused as refused:
        print(f"secrets: {refused}")
        return REFUSED
    print(f"secrets: {'; '.join(done) or 'nothing to do'}")
    return 0


def prepare(state: Path, secret: Path, researcher: Owner, subject: str | None) -> list[str]:
    """Do everything; return a list of the changes. `subject` names the user's own repository, None is the built-in
    subject."""
    wanted = volumes(state, secret, researcher)
    missing = [str(path) for path in wanted if not path.is_dir()]
    if missing:
        raise Refused(f"{', '.join(missing)}: no such folder; next: mount the volumes of compose.yaml there")
    if subject:
        _look_at_subject(state / "user-repository", subject, researcher)
    done = []
    for path, rights in to_change(wanted, {path: _rights(path) for path in wanted}).items():
        _apply(path, rights)
        done.append(f"gave {path} to {rights.owner}")
    return done + _keep_secrets(secret, wanted)


def _look_at_subject(folder: Path, subject: str, researcher: Owner) -> None:
    if not any(folder.iterdir()):
        raise Refused(
            f"SUBJECT_DIR {subject} is an empty folder; Docker makes one where none is; next: correct SUBJECT_DIR in "
            "gpu.env, or put your repository there"
        )
    top = _rights(folder)
    for path in _must_be_writable(folder):
        found = _rights(path)
        wanted = stat.S_IRWXO if path.is_dir() else stat.S_IROTH | stat.S_IWOTH
        if not found.let(researcher, wanted):
            raise Refused(complaint(subject, str(path.relative_to(folder)), found, top, researcher))


def _must_be_writable(folder: Path) -> Iterator[Path]:
    """Yield the folder and each of git's own folders. Git's objects are files that are never written again."""
    yield folder
    for git_folder, _, _ in os.walk(folder / ".git"):
        yield Path(git_folder)


def _keep_secrets(secret: Path, wanted: Mapping[Path, Rights]) -> list[str]:
    """Make the missing passwords, and write the server's users from all of them."""
    done = []
    passwords = {}
    for service in SERVICES:
        path = secret / service / PASSWORD
        if not path.exists():
            _write(path, secrets.token_hex(24), wanted[path.parent].owner)
            done.append(f"made a password for {service}")
        passwords[service] = path.read_text(encoding="utf-8").strip()
    token = secret / DASHBOARD.name / TOKEN
    if not token.exists():
        _write(token, secrets.token_urlsafe(24), wanted[token.parent].owner)
        done.append("made a token for the page")
    users = secret / "redis" / USERS
    text = acl_file(passwords)
    if not users.exists() or users.read_text(encoding="utf-8") != text:
        runs_on = ", which it reads when it starts: docker compose restart redis" if users.exists() else ""
        _write(users, text, REDIS)
        done.append(f"wrote the users of redis{runs_on}")
    return done


def _write(path: Path, text: str, owner: Owner) -> None:
    """Write a file whole or not at all, readable by its owner alone from the beginning."""
    draft = path.with_name(f"{path.name}.new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "w", encoding="utf-8") as file:
        os.fchown(file.fileno(), owner.uid, owner.gid)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _apply(folder: Path, rights: Rights) -> None:
    """Give a volume to its owner, its folder last, so that an interrupted change is made again."""
    for below, folders, files in os.walk(folder, topdown=False):
        for name in (*folders, *files):
            os.chown(Path(below, name), rights.owner.uid, rights.owner.gid, follow_symlinks=False)
    os.chown(folder, rights.owner.uid, rights.owner.gid)
    folder.chmod(rights.mode)


def _rights(path: Path) -> Rights:
    found = path.stat()
    return Rights(Owner(found.st_uid, found.st_gid), stat.S_IMODE(found.st_mode))


if __name__ == "__main__":
    sys.exit(main())
