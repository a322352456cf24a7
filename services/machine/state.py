"""The state folder of local mode: the files of one run, the choices with which it began, and its settings.

One state holds one run of one profile, and below `runs/` the earlier ones. Once the journal exists, other choices are
refused. The settings of the last start apply to the next one, unless the user gives others.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from researcher.errors import OvernightError
from researcher.files import write_whole
from researcher.journal.database import JOURNAL_FILE, holds_run
from trainer.jobs import Profile, profile_named
from trainer.jobs.task import Task, changes

CHOICES_FILE = "night.json"
DATA = "data"
OWN_SUBJECT = "subject"  # a relative path, so that a copied or moved state folder works on its own repository
SETTINGS_FILE = "settings.json"
OF_ONE_RUN = ("TAG", "SEED", "UNTIL")
OF_ONE_LLM = ("MODEL", "NUM_CTX", "NUM_PREDICT", "OLLAMA_HOST", "OPENAI_")  # beginnings of keys


class StateError(OvernightError):
    """The folder holds another run than the requested one, or none."""


@dataclass(frozen=True)
class RunConfig:
    """The choices that make the scores of a run comparable: the profile, the budget in seconds, the subject repository,
    the text, the constants of an adopted repository's prepare.py, and the name of its train.py.

    `task` is that of a repository with an overnight.toml, as JSON.
    `subject` is the path of the user's repository, or `OWN_SUBJECT`.
    """

    profile: str
    budget: float | None
    subject: str
    text: str | None
    constants: dict[str, int] | None = None
    script: str = "train.py"
    task: dict[str, Any] | None = None

    def trial_profile(self) -> Profile:
        """Return the profile with the chosen budget. Raises ProfileError for an unknown name."""
        profile = profile_named(self.profile)
        if self.task is not None:
            return profile.of_task(Task.from_json(self.task))
        if self.constants is not None:
            profile = profile.adopted(self.constants)
        return profile if self.budget is None else profile.with_budget(self.budget)

    def text_folder(self) -> Path | None:
        """Return the folder of the user's own text, None for the profile's text."""
        return None if self.text is None else Path(self.text)


@dataclass(frozen=True)
class RunSettings:
    """The settings of a run, by key. `changes` says what differs from the settings of the start before."""

    values: Mapping[str, str]
    changes: tuple[str, ...] = ()


@dataclass(frozen=True)
class State:
    """The folders below one root."""

    root: Path

    @property
    def redis(self) -> Path:
        """The folder of the embedded server."""
        return self.root / "redis"

    @property
    def subject(self) -> Path:
        """The repository of the run, with results.tsv beside its files."""
        return self.root / OWN_SUBJECT

    @property
    def journal(self) -> Path:
        """The journal, with prompts and answers beside it."""
        return self.root / "journal"

    @property
    def data(self) -> Path:
        """The prepared text; of an earlier run, which has a link there, that of the state around it."""
        folder = self.root / DATA
        return folder.resolve() if folder.is_symlink() else folder

    @property
    def runs(self) -> Path:
        """The earlier runs, each a state folder of its own."""
        return self.root / "runs"

    @property
    def is_earlier_run(self) -> bool:
        """Whether this is an earlier run below the `runs` of another state."""
        return self.root.parent.name == "runs" and (self.root / DATA).is_symlink()

    @property
    def trials(self) -> Path:
        """One folder for each trial: result and log."""
        return self.root / "trials"

    @property
    def work(self) -> Path:
        """The work folders of running trials."""
        return self.root / "work"

    @property
    def dry_runs(self) -> Path:
        """The work folders of running dry runs."""
        return self.root / "dry-runs"

    @property
    def logs(self) -> Path:
        """One log for each process."""
        return self.root / "logs"

    def choices(self) -> RunConfig | None:
        """Return the choices of the last start, None before the first. Raises StateError for an unreadable file."""
        path = self.journal / CHOICES_FILE
        if not path.exists():
            return None
        try:
            found = RunConfig(**json.loads(path.read_text(encoding="utf-8")))
            return replace(found, subject=self._name_of(Path(found.subject)))
        except (TypeError, ValueError) as error:
            raise StateError(
                f"{path} cannot be read ({error})", f"move {self.root} away, or use another --state"
            ) from error

    def user_repository(self, choices: RunConfig) -> Path | None:
        """Return the user's own repository; None for the built-in subject."""
        return None if choices.subject == OWN_SUBJECT else Path(choices.subject)

    def _name_of(self, subject: Path) -> str:
        """Return the subject as `RunConfig` has it. Earlier versions stored the absolute path of the own repository."""
        is_own = not subject.is_absolute() or subject == self.subject.resolve()
        return OWN_SUBJECT if is_own else str(subject)

    def require_run(self) -> RunConfig:
        """Return the choices of the run. Raises StateError if no run was begun, and JournalError if its journal is
        lost."""
        self._require_no_lost_journal()
        found = self.choices()
        if found is None:
            raise StateError(f"no run in {self.root}", "start one with `overnight run`, or name its --state")
        return found

    def _require_no_lost_journal(self) -> None:
        if holds_run(self.journal):
            return
        from researcher.repository.earlier_runs import require_no_lost_journal  # noqa: PLC0415 - imports git

        require_no_lost_journal(self.journal, self.subject)

    def resolve(
        self,
        *,
        profile: str | None = None,
        budget: float | None = None,
        subject: Path | None = None,
        text: Path | None = None,
        detect: Callable[[], str],
        set_aside: Callable[[RunConfig], None] | None = None,
    ) -> RunConfig:
        """Decide and write the choices of this run: the requested ones, else those of before, else the defaults.

        If the start begins another run, `set_aside` moves the one that is here, once the choices are decided.
        Raises StateError if a run has begun with other choices, and JournalError if the journal of a run is lost. A
        start that failed before the journal existed binds no later one.
        """
        self._require_no_lost_journal()
        has_begun = self.has_begun
        before = self.choices() if has_begun or (self.data / "manifest.json").exists() else None
        task = self._task(before, has_begun=has_begun)
        wanted = RunConfig(
            profile=profile or (before.profile if before else detect()),
            budget=budget if budget is not None else (before.budget if before else None),
            subject=self._name_of(subject.resolve()) if subject else before.subject if before else OWN_SUBJECT,
            text=str(text.resolve()) if text else (before.text if before else None),
            constants=(before.constants if before else None) or self._adopted_constants(),
            script=task["edit"] if task else before.script if before else "train.py",
            task=task,
        )
        if before is not None and has_begun and set_aside is None:
            self._refuse_change(before, wanted)
        if wanted.task is not None and budget is not None:
            raise StateError(
                "the seconds of a trial are those of overnight.toml",
                "leave out BUDGET and --budget; other seconds are set in overnight.toml before a run begins",
            )
        is_adopted = before is not None and (before.constants or before.task)
        if before is not None and is_adopted and (wanted.subject, wanted.text) != (before.subject, before.text):
            raise StateError(
                f"{self.root} holds the data that `overnight init` took from {before.subject}", "use another --state"
            )
        wanted.trial_profile()
        if set_aside is not None:
            set_aside(wanted)
        self.write(wanted)
        return wanted

    def settings(self) -> dict[str, str]:
        """Return the settings of the last start, by key. Raises StateError for an unreadable file."""
        path = self.journal / SETTINGS_FILE
        if not path.exists():
            return {}
        try:
            return {str(key): str(value) for key, value in json.loads(path.read_text(encoding="utf-8")).items()}
        except (AttributeError, ValueError) as error:
            raise StateError(f"{path} cannot be read ({error})", "remove it, and give the options again") from error

    def settled(self, given: Mapping[str, str], *, another_run: bool = False) -> RunSettings:
        """Return the settings of a start: those that are given, else those of the start before.

        Another LLM has settings of its own, so the address and the model of the one before are dropped. So are the
        tag, the seed and the moment of the end, if the start begins another run.
        """
        dropped = OF_ONE_RUN if another_run else ()
        before = {key: value for key, value in self.settings().items() if key not in dropped}
        if given.get("LLM", before.get("LLM")) != before.get("LLM"):
            kept = {key: value for key, value in before.items() if not key.startswith(OF_ONE_LLM)}
        else:
            kept = before
        after = kept | dict(given)
        changes = (
            f"{key} was {before.get(key, 'not set')}, and is {after.get(key, 'not set')} now"
            for key in dict.fromkeys((*before, *after))
            if before and before.get(key) != after.get(key)
        )
        return RunSettings(after, tuple(changes))

    def remember(self, settings: Mapping[str, str]) -> None:
        """Write the settings, so that the next start continues with them."""
        self.make()
        write_whole(self.journal / SETTINGS_FILE, json.dumps(dict(settings), indent=1).encode())

    def _adopted_constants(self) -> dict[str, int] | None:
        """Return the constants of the prepare.py that gave the data, None if the data are Overnight's own."""
        found = self._manifest().get("constants")
        return None if found is None else {str(name): int(value) for name, value in found.items()}

    def _task(self, before: RunConfig | None, *, has_begun: bool) -> dict[str, Any] | None:
        """Return the task of the run that has begun, else the one that the data hold, or None for a text.

        Raises StateError if the data hold another task than the run has.
        """
        held, known = self._manifest().get("task"), before.task if before else None
        if before is None or not has_begun:
            return held or known
        if known is not None and held not in (None, known):
            words = "; ".join(changes(Task.from_json(known), Task.from_json(held)))
            raise StateError(
                f"the run in {self.root} has another task than its data: {words}",
                "restore the task of the run; for another run, use another state, or other volumes",
            )
        return known

    def _manifest(self) -> dict[str, Any]:
        """Return the manifest of the data, which in containers alone has the constants or the task; {} without one."""
        try:
            found = json.loads((self.data / "manifest.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def has_begun(self) -> bool:
        """Whether a run has begun here, so that its choices must not change."""
        return (self.journal / JOURNAL_FILE).exists()

    def write(self, choices: RunConfig) -> None:
        """Write the choices of this run; they count from the moment that data exist."""
        self.make()
        write_whole(self.journal / CHOICES_FILE, json.dumps(asdict(choices), indent=1).encode())

    def make(self) -> None:
        """Create the folders. A candidate of another user may pass through the root, and cannot read the journal.

        An earlier run that was copied out of its state gets data of its own. Raises StateError if no root can be made.
        """
        if not self.root.exists():
            try:
                self.root.mkdir(parents=True)
            except OSError as error:
                raise StateError(f"{self.root} cannot be made: {error.strerror}", "name another --state") from error
            self.root.chmod(0o711)
        if (self.root / DATA).is_symlink() and not (self.root / DATA).exists():
            (self.root / DATA).unlink()
        self.journal.mkdir(mode=0o700, exist_ok=True)

    def _refuse_change(self, before: RunConfig, wanted: RunConfig) -> None:
        for name, value in asdict(wanted).items():
            if value != getattr(before, name):
                raise StateError(
                    f"the run in {self.root} was begun with {name} {getattr(before, name)}, not {value}",
                    "begin another run for that, with --new or in another --state",
                )
