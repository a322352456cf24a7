"""The state folder of local mode: where everything of one night lives, and what was chosen when it began.

One state holds one run of one profile. `night.json` is written once; asking later for something else is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from researcher.projections import write_whole
from trainer.jobs import profile_named


class StateError(Exception):
    """The folder holds another night than the one asked for, or none; the message names the next step."""


@dataclass(frozen=True)
class Choices:
    """What makes a night comparable with itself: the profile, the subject repository, the text."""

    profile: str
    subject: str
    text: str | None


@dataclass(frozen=True)
class State:
    """The folders below one root."""

    root: Path

    @property
    def redis(self) -> Path:
        """The embedded server's own folder."""
        return self.root / "redis"

    @property
    def subject(self) -> Path:
        """The subject repository, unless the user brings one."""
        return self.root / "subject"

    @property
    def journal(self) -> Path:
        """The journal, and prompts and answers beside it."""
        return self.root / "journal"

    @property
    def data(self) -> Path:
        """Prepared text."""
        return self.root / "data"

    @property
    def trials(self) -> Path:
        """One folder a trial: result and log."""
        return self.root / "trials"

    @property
    def work(self) -> Path:
        """Work folders of running trials."""
        return self.root / "work"

    @property
    def logs(self) -> Path:
        """One log a process."""
        return self.root / "logs"

    def choices(self) -> Choices | None:
        """What this night was begun with, or None before the first."""
        path = self.root / "night.json"
        return Choices(**json.loads(path.read_text())) if path.exists() else None

    def require_night(self) -> Choices:
        """Raises StateError where no night was begun."""
        found = self.choices()
        if found is None:
            raise StateError(f"no night in {self.root}; start one with `overnight run`, or name its --state")
        return found

    def settle(
        self, *, profile: str | None, detect: Callable[[], str], subject: Path | None, text: Path | None
    ) -> Choices:
        """Write the choices down, or check that they are the ones written. Raises StateError when they differ."""
        found = self.choices()
        wanted = Choices(
            profile=profile or (found.profile if found else detect()),
            subject=str((subject or self.subject).resolve()),
            text=None if text is None else str(text.resolve()),
        )
        if found is None:
            profile_named(wanted.profile)
            self.root.mkdir(parents=True, exist_ok=True)
            write_whole(self.root / "night.json", json.dumps(asdict(wanted), indent=1).encode())
            return wanted
        asked = {"profile": profile, "subject": subject and wanted.subject, "text": text and wanted.text}
        for name, value in asked.items():
            if value is not None and value != getattr(found, name):
                raise StateError(
                    f"the night in {self.root} was begun with {name} {getattr(found, name)}, not {value}; "
                    "use another --state for that"
                )
        return found
