"""The rules that hold over all modules: who may import whom, how long a module is, what may stand in a tracked file."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("researcher", "trainer", "services")
LINE_CAP = 300

# Outermost frames: each records what it caught. A handler that raises again needs no entry.
CATCHES_EVERYTHING = {"trainer/runner.py"}

# What knows the held-out scores, and what draws the read model, which carries them: for people, and no prompt.
NAMES_HELD_OUT = {
    f"researcher/{name}" for name in ("experiment.py", "journal.py", "history.py", "heldout.py", "view.py")
}
NAMES_HELD_OUT |= {"researcher/migrations/001.sql"}
SHOWS_THE_NIGHT = {"researcher/picture.py"}

# What looks like a name on the internet, and those that may stand in a tracked file: reserved ones, and where the text
# of the GPU profiles lies. The last three are no addresses: Debian's package of the Docker engine, CDI's name of a
# card, the namespace of SVG.
HOST = re.compile(r"\b(?:[a-z0-9-]+\.)+(?:com|org|net|io|dev|co|ai|example)\b", re.IGNORECASE)
KNOWN_HOST = re.compile(
    r"(.*\.)?example(\.(com|org|net))?|huggingface\.co|arxiv\.org|docker\.io|nvidia\.com|www\.w3\.org"
)
FOLDER = re.compile(r"(?<![\w.$}/])/(?:root|work|home/\w+)/")


def modules(package: str) -> list[Path]:
    return sorted(path.relative_to(ROOT) for path in (ROOT / package).rglob("*.py"))


ALL = [module for package in PACKAGES for module in modules(package)]
OURS = [module for module in ALL if module.parts[:2] != ("trainer", "subject")]


def imports(module: Path) -> set[str]:
    """Dotted names that a module imports, wherever in it; `from a import b` counts as `a.b`."""
    found = set()
    for node in ast.walk(parsed(module)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: relative import; write the whole name"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def below(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize("module", modules("researcher"), ids=str)
def test_researcher_knows_one_module_of_the_trainer(module: Path) -> None:
    strangers = {name for name in imports(module) if below(name, "trainer", "services")}

    assert {name for name in strangers if not below(name, "trainer.jobs")} == set()


@pytest.mark.parametrize("module", modules("trainer"), ids=str)
def test_trainer_knows_neither_the_researcher_nor_the_services(module: Path) -> None:
    assert {name for name in imports(module) if below(name, "researcher", "services")} == set()


@pytest.mark.parametrize("module", ALL, ids=str)
def test_nobody_imports_the_subject(module: Path) -> None:
    assert {name for name in imports(module) if below(name, "trainer.subject")} == set()


@pytest.mark.parametrize("module", modules("trainer/subject"), ids=str)
def test_subject_imports_nothing_of_ours(module: Path) -> None:
    assert {name for name in imports(module) if below(name, *PACKAGES)} == set()


def test_only_the_journal_and_what_people_read_name_the_held_out_scores() -> None:
    texts = {path for path in (ROOT / "researcher").rglob("*.*") if path.suffix != ".pyc"}

    naming = {path for path in texts if re.search(r"held_?out", path.read_text(), re.IGNORECASE)}

    assert {str(path.relative_to(ROOT)) for path in naming} == NAMES_HELD_OUT


def test_nothing_that_proposes_or_decides_looks_at_the_night_as_people_do() -> None:
    night = {"researcher.view", "researcher.view.look", "researcher.view.Night"}

    assert {str(module) for module in modules("researcher") if imports(module) & night} == SHOWS_THE_NIGHT


@pytest.mark.parametrize("module", modules("researcher"), ids=str)
def test_researcher_imports_no_torch(module: Path) -> None:
    assert {name for name in imports(module) if below(name, "torch")} == set()


@pytest.mark.parametrize("module", modules("trainer/jobs"), ids=str)
def test_contract_imports_neither_torch_nor_numpy(module: Path) -> None:
    assert {name for name in imports(module) if below(name, "torch", "numpy")} == set()


def test_importing_the_contract_loads_neither_torch_nor_numpy_through_others() -> None:
    assert loaded_by(["trainer.jobs"]) & {"torch", "numpy"} == set()


def test_importing_all_of_the_researcher_loads_no_torch_through_others() -> None:
    names = [".".join(module.with_suffix("").parts) for module in modules("researcher")]

    assert "torch" not in loaded_by([name.removesuffix(".__init__") for name in names if not name.endswith("__main__")])


@pytest.mark.parametrize("module", OURS, ids=str)
def test_module_is_short(module: Path) -> None:
    assert len((ROOT / module).read_text().splitlines()) < LINE_CAP


@pytest.mark.parametrize("module", OURS, ids=str)
def test_module_says_what_it_is(module: Path) -> None:
    assert ast.get_docstring(parsed(module)), f"{module} has no docstring"


@pytest.mark.parametrize("module", ALL, ids=str)
def test_only_outermost_frames_catch_everything(module: Path) -> None:
    if str(module) in CATCHES_EVERYTHING:
        return

    assert [f"{module}:{line}" for line in broad_catches(parsed(module))] == []


def test_every_module_that_may_catch_everything_still_does() -> None:
    assert {str(module) for module in ALL if list(broad_catches(parsed(module)))} == CATCHES_EVERYTHING


def test_tracked_files_name_no_address_and_no_folder_of_one_machine() -> None:
    found = [
        f"{name}: {match.group()}"
        for name, text in tracked_texts()
        for match in (*HOST.finditer(text), *FOLDER.finditer(text))
        if not KNOWN_HOST.fullmatch(match.group())
    ]

    assert found == []


@pytest.mark.parametrize("package", PACKAGES)
def test_readme_names_every_module(package: str) -> None:
    readme = (ROOT / "README.md").read_text()

    names = [module.name for module in modules(package) if module.name not in ("__init__.py", "__main__.py")]

    assert [name for name in names if not re.search(rf"\b{re.escape(name)}\b", readme)] == []


def test_readme_names_no_module_that_is_gone() -> None:
    tree = (ROOT / "README.md").read_text().split("```")[1]
    names = {module.name for module in ALL}

    assert [name for name in re.findall(r"\b\w+\.py\b", tree) if name not in names] == []


@cache
def parsed(module: Path) -> ast.Module:
    return ast.parse((ROOT / module).read_text(), filename=str(module))


def loaded_by(names: list[str]) -> set[str]:
    code = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]; print(*sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code, *names], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(answer.stdout.split())


def broad_catches(tree: ast.Module) -> Iterator[int]:
    """Lines of handlers for everything that do not raise it again, and of `suppress` for everything."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and is_everything(node.type) and not ends_in_raise(node):
            yield node.lineno
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress"):
            yield from (argument.lineno for argument in node.args if is_everything(argument))


def is_everything(kind: ast.expr | None) -> bool:
    if isinstance(kind, ast.Tuple):
        return any(map(is_everything, kind.elts))
    return kind is None or ast.unparse(kind) in ("Exception", "BaseException")


def ends_in_raise(handler: ast.ExceptHandler) -> bool:
    return isinstance(handler.body[-1], ast.Raise)


def tracked_texts() -> Iterator[tuple[str, str]]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listing.split("\0")):
        path = ROOT / name
        if path.is_file() and not path.is_symlink():
            yield name, path.read_bytes().decode(errors="replace")
