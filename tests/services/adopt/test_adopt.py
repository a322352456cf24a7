"""`overnight init`: what is refused by reading, what is asked, and a real trial and a run of what was adopted."""

from __future__ import annotations

import dataclasses
import io
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import git
import pytest
from rich.console import Console

from researcher.decision.setup_time import with_setup
from researcher.errors import SubjectError
from researcher.journal.database import JOURNAL_FILE
from researcher.journal.reader import JournalReader
from services.adopt.adopt import Init, adopt, settle_data
from services.adopt.static_values import Surroundings
from services.adopt.subject_check import ShapeRefused, inspect
from services.machine.state import State, StateError
from tests import ROOT, TESTS
from tests.trainer.data.conftest import as_it_was
from trainer.data import MANIFEST, verify
from trainer.data.generated import GENERATED
from trainer.jobs import Kind, Outcome, TrialResult, TrialSpec, files_digest
from trainer.sandbox.landlock import abi
from trainer.sandbox.paths import WorkerConfig
from trainer.trial.trial import run_trial

OWN = TESTS / "subjects" / "own"
FILES = {name: (OWN / name).read_text() for name in ("train.py", "prepare.py")}
REPOSITORY = ROOT
needs_landlock = pytest.mark.skipif(not abi(), reason="needs a kernel with Landlock")


def around(folder: Path) -> Surroundings:
    return Surroundings(folder / "repository" / "prepare.py", folder / "home", {"WHERE": str(folder / "elsewhere")})


def test_unedited_script_of_the_known_shape_is_told_what_it_is(tmp_path: Path) -> None:
    shape = inspect(FILES, around(tmp_path))

    assert shape.constants["MAX_SEQ_LEN"] == 16
    assert shape.constants["EVAL_TOKENS"] == 40 * 32
    told = "\n".join(shape.found)
    for words in (
        "a seed of its own",
        "for 2 s by the wall clock, after its first 11 steps",
        "compiled",
        "MATRIX_LR 0.001..0.1 log",
        "a second process with the same weights",
    ):
        assert words in told


@pytest.mark.parametrize("comment", ["range 0.001 to 0.1 log", "Range: 0.001..0.1, log", "rate, log, 0.001...0.1"])
def test_range_that_is_nearly_right_is_told_with_its_fix(tmp_path: Path, comment: str) -> None:
    train = FILES["train.py"].replace("range 0.001..0.1 log", comment)

    (told,) = (line for line in inspect(FILES | {"train.py": train}, around(tmp_path)).found if "MATRIX_LR:" in line)

    assert "range 0.001..0.1 log'" in told


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("train.py", "import LONGEST_WORD,", "import open_file,", "takes open_file from prepare.py"),
        ("train.py", "import LONGEST_WORD,", "import DATA,", "takes DATA from prepare.py"),
        ("train.py", "t_start =", "import prepare as p\np.get_batch()\nt_start =", "takes get_batch from prepare.py"),
        ("train.py", "t_start =", "from prepare import *\nt_start =", r"imports \* from prepare.py"),
        ("train.py", "evaluate_bpb(model, tokenizer, DEVICE_BATCH_SIZE)", "1.0", "does not call evaluate_bpb"),
        ("train.py", '"train")', '"train", shards=2)', "gives make_dataloader shards, and its stand-in takes only"),
        ("train.py", '"train")', '"train", 500, 7)', "gives make_dataloader more, and its stand-in takes only"),
        ("train.py", '"train")', '*("train",))', "gives make_dataloader more, and its stand-in takes only"),
        ("train.py", "TIME_BUDGET", "MAX_SEQ_LEN", "does not import TIME_BUDGET"),
        ("train.py", "import math", "import nowhere_to_be_found", "pip install nowhere_to_be_found"),
        ("train.py", "import math", "import math math", "train.py does not parse: line"),
        ("prepare.py", "def get_token_bytes", "def token_lengths", "defines no get_token_bytes"),
        ("prepare.py", "MAX_SEQ_LEN = 16", "MAX_SEQ_LEN = len(os.listdir())", "gives MAX_SEQ_LEN no plain number"),
        ("prepare.py", "TIME_BUDGET = 2", "TIME_BUDGET = 0", "gives TIME_BUDGET no plain number above 0"),
    ],
)  # fmt: skip
def test_other_shapes_are_refused_in_one_sentence(tmp_path: Path, file: str, old: str, new: str, said: str) -> None:
    files = FILES | {file: FILES[file].replace(old, new)}
    if "DATA," in new:
        files["prepare.py"] += "\nDATA = 'mine'\n"

    with pytest.raises(ShapeRefused, match=said) as refusal:
        inspect(files, around(tmp_path))

    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "folder"),
    [
        ('os.path.join(os.path.expanduser("~"), ".cache", "x")', "home/.cache/x"),
        ('Path.home() / ".cache" / "x"', "home/.cache/x"),
        ('Path("~/.cache/x").expanduser()', "home/.cache/x"),
        ('os.environ.get("WHERE", "/nowhere")', "elsewhere"),
        ('f"{os.path.dirname(os.path.dirname(__file__))}/elsewhere"', "elsewhere"),
        ('os.path.expanduser("~")', None),
        ("Path.home().parent", None),
        ('"/"', None),
        ('Path(__file__).parent / "data"', None),
        ("os.listdir()[0]", None),
    ],
)
def test_it_may_read_the_folders_that_its_constants_name_but_no_home(
    tmp_path: Path, text: str, folder: str | None
) -> None:
    for name in ("home/.cache/x/below", "elsewhere", "repository/data"):
        (tmp_path / name).mkdir(parents=True)

    shape = inspect(
        FILES | {"prepare.py": f"{FILES['prepare.py']}\nA = {text}\nB = Path(A) / 'below'\n"}, around(tmp_path)
    )

    assert shape.folders == (() if folder is None else (tmp_path / folder,))


@dataclasses.dataclass(frozen=True)
class Own:
    """A user's repository and home, and a state that adopted it."""

    folder: Path
    state: State
    said: io.StringIO
    asked: list[str]
    files: dict[str, str] = dataclasses.field(default_factory=lambda: FILES)

    @property
    def repository(self) -> Path:
        return self.folder / "repository"

    def init(self, state: State | None = None, *, agrees: bool = True) -> bool:
        """True where it was done."""

        def agreed(question: str) -> bool:
            self.asked.append(question)
            return agrees

        options = Init(self.repository, "cpu", None, 500, ())
        console = Console(file=self.said, width=200)
        return adopt(state or self.state, options, agreed, console) is not None

    def commit(self, **files: str) -> None:
        for name, text in files.items():
            (self.repository / f"{name}.py").write_text(text)
        commit(self.repository)

    def trial(
        self, places: Path, number: int = 1, setups: list[float] | None = None, budget: float = 0.3, **files: str
    ) -> TrialResult:
        """A trial of the repository's files, changed ones named. `setups` are those of the baseline, if it was
        measured. What a busy machine has disturbed is measured once more, as the researcher does."""
        choices = self.state.choices()
        assert choices is not None
        carried = self.files | {f"{name}.py": text for name, text in files.items()}
        profile = choices.trial_profile().with_budget(budget)
        spec = TrialSpec(
            id=f"own-{number}-t1-a0",
            kind=Kind.FIRST,
            profile=profile.name,
            files=carried,
            files_sha256=files_digest(carried),
            data_sha256=settle_data(self.state, choices, Console(file=self.said)).digest,
            seed=1,
            budget=with_setup(profile.budget, setups),
            caps=profile.caps,
        )
        for name in ("trials", "work"):
            (places / name).mkdir(exist_ok=True)
        config = WorkerConfig(self.state.data, places / "trials", places / "work")
        result = run_trial(spec, config, lambda _: None, lambda: False)
        again = replace(spec, id=f"own-{number}-t1-a1")
        return run_trial(again, config, lambda _: None, lambda: False) if result.disturbed else result


def commit(repository: Path) -> None:
    with git.Repo.init(repository, initial_branch="main") as repo:
        repo.git.add("*.py")
        repo.git.execute(["git", "-c", "user.name=A", "-c", "user.email=a@example.org", "commit", "-qm", "mine"])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """With what the user's prepare.py has put there."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        runpy.run_path(str(OWN / "prepare.py"), run_name="__main__")
    return folder


@pytest.fixture
def own(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Own:
    """Not adopted yet."""
    monkeypatch.setenv("HOME", str(home))
    (tmp_path / "repository").mkdir()
    made = Own(tmp_path, State(tmp_path / "state"), io.StringIO(), [])
    made.commit(**{name.removesuffix(".py"): text for name, text in FILES.items()})
    return made


def test_without_a_yes_nothing_is_written_and_the_question_names_what_may_be_read(own: Own, home: Path) -> None:
    assert not own.init(agrees=False)

    assert not own.state.root.exists()
    assert f"files and {own.repository}, {home / '.cache' / 'own-subject'}, and" in own.asked[0]


def test_uncommitted_changes_and_a_run_that_has_begun_are_refused_before_anything_runs(own: Own) -> None:
    (own.repository / "train.py").write_text(FILES["train.py"] + "\n")
    with pytest.raises(SubjectError, match="uncommitted changes"):
        own.init()
    own.state.make()
    own.commit()
    (own.state.journal / JOURNAL_FILE).touch()
    with pytest.raises(StateError, match="a run has begun"):
        own.init()

    assert own.asked == []


def test_script_of_another_name_has_to_be_named_and_is_then_taken(own: Own) -> None:
    (own.repository / "train.py").rename(own.repository / "train_gpt.py")
    with git.Repo(own.repository) as repo:
        repo.git.rm("--cached", "train.py")
    own.commit()
    options = Init(own.repository, "cpu", None, 500, ())
    console = Console(file=own.said, width=200)

    with pytest.raises(ShapeRefused, match=r"no train\.py; name the script that trains: --train NAME"):
        adopt(own.state, options, lambda _: True, console)
    named = dataclasses.replace(options, script="train_gpt.py")
    assert adopt(own.state, named, lambda _: True, console) is not None
    choices = own.state.choices()

    assert choices is not None
    assert choices.script == "train_gpt.py"
    assert own.state.resolve(detect=lambda: "cpu") == choices
    settle_data(own.state, choices, console)


PROBES = """\
import prepare, sys
for name, attempt in {
    "loader": lambda: next(prepare.make_dataloader(prepare.Tokenizer.from_directory(), 1, 4, "val")),
    "file": lambda: open(%r),
    "rows": lambda: open(str(prepare.DATA / "private" / "val.npy")),
    "text": lambda: prepare.Tokenizer.from_directory().encode("a"),
}.items():
    try:
        attempt()
        print(f"{name} open")
    except Exception as error:
        print(f"{name} closed: {error}")
"""


@needs_landlock
def test_the_scripts_own_uncounted_steps_are_told_and_taken(own: Own) -> None:
    own.commit(train=FILES["train.py"].replace("if step > 10:\n        total", "if step > 0:\n        total"))
    assert own.init()

    choices = own.state.choices()
    assert choices is not None
    assert choices.trial_profile().budget.warmup_steps == 1
    assert "for 2 s by the wall clock, after its first step" in own.said.getvalue()


@pytest.mark.slow
@needs_landlock
def test_adopted_repository_is_scored_and_its_script_sees_no_validation_text(
    own: Own, home: Path, tmp_path: Path
) -> None:
    assert own.init()
    before = (own.state.data / MANIFEST).read_bytes()
    assert own.init()
    assert (len(own.asked), (own.state.data / MANIFEST).read_bytes()) == (1, before), "made once"
    validation = home / ".cache" / "own-subject" / "data" / "val.txt"
    assert validation.exists()

    result = own.trial(tmp_path, train=PROBES % str(validation) + FILES["train.py"])

    assert result.outcome is Outcome.OK, result.reason
    assert result.log is not None
    told = (tmp_path / "trials" / result.log.path).read_text()
    assert "loader closed: a trial serves the split 'train' only" in told
    assert re.search(r"file closed: \[Errno (2|13)\]", told), "it is not there, or closed"
    assert re.search(r"rows closed: \[Errno (2|13)\]", told)
    assert "text closed: Tokenizer.encode and decode are not there" in told
    assert "longest_word:     12" in told


@needs_landlock
def test_what_is_not_as_it_was_taken_scores_nothing_and_begins_no_run(own: Own, tmp_path: Path) -> None:
    assert own.init()
    other = FILES["prepare.py"] + "\n"

    edited = own.trial(tmp_path, prepare=other)

    assert edited.outcome is Outcome.UNSCORABLE
    assert "is not the one that gave the data" in edited.reason
    assert edited.exit_code is None
    own.commit(prepare=other)
    choices = own.state.choices()
    assert choices is not None
    with pytest.raises(StateError, match="take it again: overnight init"):
        settle_data(own.state, choices, Console(file=own.said))
    with pytest.raises(StateError, match="nothing here can encode a private text"):
        settle_data(own.state, choices, Console(file=own.said), unseen=tmp_path)
    (own.state.data / "train.npy").write_bytes(b"")
    with pytest.raises(StateError, match="are damaged; restore them"):
        settle_data(own.state, choices, Console(file=own.said))


@needs_landlock
def test_data_that_an_earlier_version_took_are_given_the_unseen_slice_that_they_lack(own: Own) -> None:
    assert own.init()
    before = as_it_was(own.state.data)
    choices = own.state.choices()
    assert choices is not None

    manifest = settle_data(own.state, choices, Console(file=own.said))

    assert (manifest.earlier_digest, manifest.unseen) == (before, GENERATED)
    assert verify(own.state.data) == manifest


@pytest.mark.slow
@needs_landlock
def test_run_goes_on_from_init_with_its_budget_and_data(own: Own) -> None:
    def overnight(*words: str) -> None:
        command = [sys.executable, "-m", "services.cli", *words, "--state", str(own.state.root)]
        subprocess.run(command, cwd=REPOSITORY, check=True, timeout=500)

    overnight("init", "--subject", str(own.repository), "--profile", "cpu", "--yes")
    overnight("run", "--experiments", "2", "--proposer", "optimizer")

    with JournalReader(own.state.journal) as history:
        run = history.run()
        assert run is not None
        assert run.budget == 2.0
        assert history.measured_count() == 2
    with git.Repo(own.repository) as repo:
        assert [head.name for head in repo.heads] == ["main", run.branch]
        assert repo.git.show("main:prepare.py") == FILES["prepare.py"].rstrip("\n")
        assert repo.git.diff("--stat", "main", run.branch, "--", "prepare.py") == ""
