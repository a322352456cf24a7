"""The state folder of local mode: where everything of one run lives, and what was chosen when it began.

One state holds one run of one profile. Once its journal exists, asking for something else is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from researcher.errors import OvernightError
from researcher.files import write_whole
from researcher.journal.database import JOURNAL_FILE
from trainer.jobs import Profile, profile_named

CHOICES_FILE = "night.json"


class StateError(OvernightError):
    """The folder holds another run than the one asked for, or none."""


@dataclass(frozen=True)
class RunConfig:
    """What makes a run comparable with itself: the profile, the budget, the subject repository, the text; and the
    constants of an adopted repository's prepare.py."""

    profile: str
    budget: float | None
    subject: str
    text: str | None
    constants: dict[str, int] | None = None

    def trial_profile(self) -> Profile:
        """The profile with the budget that was chosen."""
        profile = profile_named(self.profile)
        if self.constants is not None:
            profile = profile.adopted(self.constants)
        return profile if self.budget is None else profile.with_budget(self.budget)

    def text_folder(self) -> Path | None:
        """The user's own text, if they brought one."""
        return None if self.text is None else Path(self.text)


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
        """The repository of the run, and results.tsv beside its files."""
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
    def checks(self) -> Path:
        """Work folders of running checks."""
        return self.root / "checks"

    @property
    def logs(self) -> Path:
        """One log a process."""
        return self.root / "logs"

    def choices(self) -> RunConfig | None:
        """What this run was begun with, or None before the first."""
        path = self.journal / CHOICES_FILE
        if not path.exists():
            return None
        try:
            return RunConfig(**json.loads(path.read_text()))
        except (TypeError, ValueError) as error:
            raise StateError(
                f"{path} cannot be read ({error})", f"move {self.root} away, or use another --state"
            ) from error

    def user_repository(self, choices: RunConfig) -> Path | None:
        """The repository that the user brought; None for the built-in subject."""
        chosen = Path(choices.subject)
        return None if chosen == self.subject.resolve() else chosen

    def require_run(self) -> RunConfig:
        """Raises StateError where no run was begun."""
        found = self.choices()
        if found is None:
            raise StateError(f"no run in {self.root}", "start one with `overnight run`, or name its --state")
        return found

    def settle(
        self,
        *,
        profile: str | None = None,
        budget: float | None = None,
        subject: Path | None = None,
        text: Path | None = None,
        detect: Callable[[], str],
    ) -> RunConfig:
        """What this run is: what is asked for now, else what was chosen before, else the default; written down.

        Raises StateError when a run has begun with other choices. What only failed to start binds nobody.
        """
        has_begun = self.has_begun
        before = self.choices() if has_begun or (self.data / "manifest.json").exists() else None
        wanted = RunConfig(
            profile=profile or (before.profile if before else detect()),
            budget=budget if budget is not None else (before.budget if before else None),
            subject=str(subject.resolve() if subject else before.subject if before else self.subject.resolve()),
            text=str(text.resolve()) if text else (before.text if before else None),
            constants=before.constants if before else None,
        )
        if before is not None and has_begun:
            self._refuse_change(before, wanted)
        if before is not None and before.constants and (wanted.subject, wanted.text) != (before.subject, before.text):
            raise StateError(
                f"{self.root} holds the data that `overnight init` took from {before.subject}", "use another --state"
            )
        wanted.trial_profile()
        self.write(wanted)
        return wanted

    @property
    def has_begun(self) -> bool:
        """Whether there is a run here that must stay what it is."""
        return (self.journal / JOURNAL_FILE).exists()

    def write(self, choices: RunConfig) -> None:
        """What this run is to be; of weight once there are data."""
        self.make()
        write_whole(self.journal / CHOICES_FILE, json.dumps(asdict(choices), indent=1).encode())

    def make(self) -> None:
        """Candidates may be another user: that one passes through, and sees nothing of the journal."""
        if not self.root.exists():
            self.root.mkdir(parents=True)
            self.root.chmod(0o711)
        self.journal.mkdir(mode=0o700, exist_ok=True)

    def _refuse_change(self, before: RunConfig, wanted: RunConfig) -> None:
        for name, value in asdict(wanted).items():
            if value != getattr(before, name):
                raise StateError(
                    f"the run in {self.root} was begun with {name} {getattr(before, name)}, not {value}",
                    "use another --state for that",
                )
