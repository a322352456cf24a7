"""The rules that hold over all modules: who may import whom, how long a module is, what may stand in a tracked file."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests import ROOT

PACKAGES = ("researcher", "trainer", "services")
LINE_CAP = 400
README_WORDS = 1500

ENTRIES_CAP, MODULES_CAP = 20, 8

# From the ground up: a module imports what stands below its own line or on it, and never what stands above.
LAYERS = {
    "researcher": (
        ("researcher.errors", "researcher.files", "researcher.backoff"),
        ("researcher.source",),
        ("researcher.journal",),
        ("researcher.decision",),
        ("researcher.repository", "researcher.queues"),
        ("researcher.report", "researcher.optimizer"),
        ("researcher.llm",),
        ("researcher.prompting",),
        ("researcher.proposers",),
        ("researcher.config",),
        ("researcher.loop",),
        ("researcher.wiring",),
        ("researcher.__main__",),
    ),
    "trainer": (
        ("trainer.jobs", "trainer.stop"),
        ("trainer.candidate",),
        ("trainer.sandbox",),
        ("trainer.data",),
        ("trainer.scoring",),
        ("trainer.trial",),
        ("trainer.worker",),
        ("trainer.__main__",),
    ),
    "services": (
        ("services.machine",),
        ("services.redis",),
        ("services.views",),
        ("services.dashboard",),
        ("services.doctor", "services.adopt"),
        ("services.stack", "services.researcher", "services.trainer"),
        ("services.local",),
        ("services.allinone",),
        ("services.run_commands",),
        ("services.cli", "services.__main__"),
    ),
}

# Outermost frames: each records what it caught. A handler that raises again needs no entry.
CATCHES_EVERYTHING = {"trainer/candidate/runner.py"}

# What knows the held-out scores, and what draws the read model, which carries them: for people, and no prompt.
NAMES_HELD_OUT = {
    "researcher/README.md",
    "researcher/decision/__init__.py",
    "researcher/decision/heldout.py",
    "researcher/journal/migrations/001.sql",
    "researcher/report/document.py",
    "researcher/report/snapshot.py",
    "researcher/report/view.py",
}
# What handles the measurements of a trial without naming them: the journal, and the page about a new column.
NAMES_ALL_MEASUREMENTS = {
    "researcher/README.md",
    "researcher/journal/reader.py",
    "researcher/journal/records.py",
    "researcher/journal/writer.py",
}
SHOWS_THE_RUN = {f"researcher/report/{name}.py" for name in ("picture", "snapshot", "staircase")}

# What looks like a name on the internet, and those that may stand in a tracked file: reserved ones, and where the text
# of the GPU profiles lies. The last three are no addresses: Debian's package of the Docker engine, CDI's name of a
# GPU, the namespace of SVG.
HOST = re.compile(r"\b(?:[a-z0-9-]+\.)+(?:com|org|net|io|dev|co|ai|example)\b", re.IGNORECASE)
KNOWN_HOST = re.compile(
    r"(.*\.)?example(\.(com|org|net))?|huggingface\.co|arxiv\.org|docker\.io|nvidia\.com|ollama\.com|www\.w3\.org"
)
FOLDER = re.compile(r"(?<![\w.$}/])/(?:root|work|home/\w+)/")


EXAMPLES = Path("services/adopt/examples")  # repositories of users, and none of our modules


def modules(package: str) -> list[Path]:
    found = (path.relative_to(ROOT) for path in (ROOT / package).rglob("*.py"))
    return sorted(path for path in found if not path.is_relative_to(EXAMPLES))


ALL = [module for package in PACKAGES for module in modules(package)]
FOLDERS = sorted({module.parent for module in ALL if len(module.parts) > 2} - {Path("trainer/subject")})
# A new client, proposer or view needs no line in the docstring of its folder.
PLUG_INS = {Path("researcher/llm"), Path("researcher/proposers"), Path("services/views")}
BUDGETED = {Path("trainer/sandbox"), Path("trainer/candidate")}
OURS = [module for module in ALL if module.parts[:2] != ("trainer", "subject")]


@cache
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


def importing(within: list[Path], *packages: str) -> set[tuple[str, str]]:
    """The modules of `within` that import something of these packages, each with what it imports."""
    assert within, "there are such modules"
    return {(str(module), name) for module in within for name in imports(module) if below(name, *packages)}


def test_researcher_knows_one_module_of_the_trainer() -> None:
    strangers = importing(modules("researcher"), "trainer", "services")

    assert {(module, name) for module, name in strangers if not below(name, "trainer.jobs")} == set()


def test_trainer_knows_neither_the_researcher_nor_the_services() -> None:
    assert importing(modules("trainer"), "researcher", "services") == set()


def test_nobody_imports_the_subject() -> None:
    assert importing(ALL, "trainer.subject") == set()


def test_subject_imports_nothing_of_ours() -> None:
    assert importing(modules("trainer/subject"), *PACKAGES) == set()


def test_only_the_journal_and_what_users_read_name_the_held_out_scores() -> None:
    texts = {path for path in (ROOT / "researcher").rglob("*.*") if path.suffix != ".pyc"}

    naming = {path for path in texts if re.search(r"held_?out", path.read_text(), re.IGNORECASE)}
    naming_all = {path for path in texts if re.search(r"\bMEASURED\b|\bMeasurements\b", path.read_text())}

    assert {str(path.relative_to(ROOT)) for path in naming} == NAMES_HELD_OUT
    assert {str(path.relative_to(ROOT)) for path in naming_all} == NAMES_ALL_MEASUREMENTS


def test_nothing_that_proposes_or_decides_looks_at_the_run_as_users_do() -> None:
    whole = {"snapshot", "snapshot.snapshot", "snapshot.Report", "view", "view.build_report", "view.RunReport"}
    names = {f"researcher.report.{name}" for name in whole}

    assert {str(module) for module in modules("researcher") if imports(module) & names} == SHOWS_THE_RUN


def test_researcher_imports_no_torch() -> None:
    assert importing(modules("researcher"), "torch") == set()


def test_contract_imports_neither_torch_nor_numpy() -> None:
    assert importing(modules("trainer/jobs"), "torch", "numpy") == set()


def test_importing_the_contract_loads_neither_torch_nor_numpy_through_others() -> None:
    assert loaded_by(["trainer.jobs"]) & {"torch", "numpy"} == set()


def test_what_shows_and_steers_a_run_loads_nothing_that_takes_long() -> None:
    slow = {"git", "httpx", "matplotlib", "numpy", "optuna", "pydantic_settings", "rich.syntax", "torch"}

    assert loaded_by(["services.cli"]) & slow == set()


def test_importing_all_of_the_researcher_loads_no_torch_through_others() -> None:
    names = [".".join(module.with_suffix("").parts) for module in modules("researcher")]

    assert "torch" not in loaded_by([name.removesuffix(".__init__") for name in names if not name.endswith("__main__")])


def test_modules_are_short() -> None:
    lengths = {str(module): len((ROOT / module).read_text().splitlines()) for module in OURS}

    assert {module: length for module, length in lengths.items() if length >= LINE_CAP} == {}


def test_modules_say_what_they_are() -> None:
    bare = {module for module in OURS if not ast.get_docstring(parsed(module))}

    assert {str(module) for module in bare if module.name != "__init__.py" or module.parent not in BUDGETED} == set()


def test_only_outermost_frames_catch_everything_and_each_of_them_does() -> None:
    found = {str(module): lines for module in ALL if (lines := list(broad_catches(parsed(module))))}

    assert found.keys() == CATCHES_EVERYTHING, found


def test_every_process_gets_an_environment_that_was_built_for_it() -> None:
    """See trainer/jobs/environment.py. Without it a child gets the user's settings of git, Python and pip."""
    started = [(module, call) for module in OURS for call in calls_in(module) if is_start_of_a_process(call)]

    assert len(started) > 8
    assert [f"{module}:{call.lineno}" for module, call in started if "env" not in named_in(call)] == []


def test_every_python_that_we_start_ignores_the_current_folder() -> None:
    commands = [
        (module, node)
        for module in OURS
        for node in ast.walk(parsed(module))
        if isinstance(node, ast.List) and node.elts and ast.unparse(node.elts[0]) == "sys.executable"
    ]

    assert len(commands) > 3
    isolating = {"'-P'", "'-I'"}
    unsafe = [
        f"{module}:{node.lineno}" for module, node in commands if not isolating & set(map(ast.unparse, node.elts))
    ]
    assert unsafe == []


def test_every_text_file_is_read_and_written_in_a_named_encoding() -> None:
    """The locale decides otherwise, and another machine has another one."""
    assert [f"{module}:{call.lineno}" for module in OURS for call in calls_in(module) if leaves_encoding(call)] == []


def calls_in(module: Path) -> Iterator[ast.Call]:
    return (node for node in ast.walk(parsed(module)) if isinstance(node, ast.Call))


def named_in(call: ast.Call) -> set[str | None]:
    return {keyword.arg for keyword in call.keywords}


def is_start_of_a_process(call: ast.Call) -> bool:
    return ast.unparse(call.func) in ("subprocess.run", "subprocess.Popen")


def leaves_encoding(call: ast.Call) -> bool:
    """Whether a call reads or writes text in the encoding of the locale."""
    name, named = ast.unparse(call.func), named_in(call)
    verb = name.rpartition(".")[2]
    if "encoding" in named:
        return False
    if verb in ("read_text", "write_text") and name != verb:
        return True
    if name in ("subprocess.run", "subprocess.Popen"):
        return bool({"text", "universal_newlines"} & named)
    if (verb == "open" and name not in ("os.open", "tarfile.open")) or verb == "fdopen":
        modes = [
            part.value for part in ast.walk(call) if isinstance(part, ast.Constant) and isinstance(part.value, str)
        ]
        return bool(files_opened(call, name)) and not any("b" in mode for mode in modes if set(mode) <= set("rwxab+"))
    return False


def files_opened(call: ast.Call, name: str) -> bool:
    """Whether `open` opens a file: the built-in, a descriptor's, or that of a path, whose first argument is a mode."""
    if name in ("open", "os.fdopen") or not call.args:
        return True
    texts = {part.value for part in ast.walk(call.args[0]) if isinstance(part, ast.Constant)}
    return bool(texts) and all(isinstance(text, str) and set(text) <= set("rwxab+") for text in texts)


def test_tracked_files_name_no_address_and_no_folder_of_one_machine() -> None:
    found = [
        f"{name}: {match.group()}"
        for name, text in tracked_texts()
        for match in (*HOST.finditer(text), *FOLDER.finditer(text))
        if not KNOWN_HOST.fullmatch(match.group())
    ]

    assert found == []


def test_a_folder_imports_only_folders_below_it() -> None:
    assert {(str(module), name) for module in ALL for name in higher_imports(module)} == set()


def higher_imports(module: Path) -> set[str]:
    """What a module imports of its own package's higher layers."""
    own = layer_of(".".join(module.with_suffix("").parts))
    known = {name for name in imports(module) if below(name, module.parts[0])}
    return {name for name in known if own is not None and (layer_of(name) or 0) > own}


@pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS)
def test_every_module_has_a_layer(layers: tuple[tuple[str, ...], ...]) -> None:
    named = [name for layer in layers for name in layer]

    assert len(named) == len(set(named))
    assert [name for name in named if name.count(".") != 1] == [], (
        "a folder has one layer, so that no circle hides in it"
    )
    assert [name for name in named if not (ROOT / name.replace(".", "/")).is_dir() and not is_module(name)] == []
    assert [str(module) for module in ALL if layer_of(".".join(module.with_suffix("").parts)) is None] == []


def test_the_docstring_of_a_folder_names_its_modules() -> None:
    texts = {folder: (ROOT / folder / "__init__.py").read_text() for folder in FOLDERS}
    there = {
        folder: {path.stem for path in (ROOT / folder).glob("*.py")} - {"__init__", "__main__"} for folder in FOLDERS
    }
    unnamed = {folder: there[folder] - set(re.findall(r"`(\w+)`", text)) for folder, text in texts.items()}

    assert {texts[folder] for folder in BUDGETED} == {""}, "the start of the guardian is budgeted to the import"
    assert {folder: names for folder, names in unnamed.items() if names and folder not in PLUG_INS | BUDGETED} == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_opens_with_few_entries(package: str) -> None:
    listing = subprocess.run(["git", "ls-files", package], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    entries = {Path(name).parts[1] for name in listing.splitlines()}

    assert len(entries) <= ENTRIES_CAP
    assert len([name for name in entries if name.endswith(".py")]) <= MODULES_CAP


def test_readme_has_at_most_1500_words() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= README_WORDS


@pytest.mark.parametrize("package", PACKAGES)
def test_page_of_a_package_names_each_folder_and_no_module_that_is_gone(package: str) -> None:
    there = defaultdict[str, set[str]](set)
    for module in modules(package):
        if module.name not in ("__init__.py", "__main__.py"):
            there["/".join(module.parts[1:-1])].add(module.name)

    named = named_in_tree(package)
    assert set(there) <= set(named)
    assert {f"{folder}/{name}" for folder in named for name in named[folder] - there[folder]} == set()


def named_in_tree(package: str) -> dict[str, set[str]]:
    """The modules that the tree of a package's page names, by folder; the package itself is the folder ''."""
    tree = (ROOT / package / "README.md").read_text().partition("## Modules")[2].split("```")[1]
    folder, named = "", defaultdict[str, set[str]](set)
    for line in tree.splitlines():
        if begins := re.match(r"  (\w+)/", line):
            folder = begins[1]
        if names := re.findall(r"\b\w+\.py\b", line):
            named[folder].update(names)
    return named


def layer_of(name: str) -> int | None:
    """The number of the layer, from the ground up, that a dotted name belongs to; None for what is none of ours."""
    package = name.partition(".")[0]
    for number, layer in enumerate(LAYERS.get(package, ())):
        if below(name, *layer):
            return number
    return 0 if below(name, "trainer.subject") or name in (f"{package}.__init__", package) else None


def is_module(name: str) -> bool:
    return (ROOT / name.replace(".", "/")).with_suffix(".py").exists()


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


def programs_in_strings() -> Iterator[tuple[str, str, str]]:
    """Yield file, module and name of each import of ours that stands in a text of a test, such as a miniature."""
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Constant) and isinstance(node.value, str)):
                continue
            for module, names in re.findall(
                r"from ((?:researcher|trainer|services)[\w.]*) import ([\w, ]+)", node.value
            ):
                for name in names.split(","):
                    yield path.relative_to(ROOT).as_posix(), module, name.split()[0]


def names_of(module: str) -> set[str]:
    """Return what can be imported from a module: its own names and, for a package, its modules."""
    place = ROOT.joinpath(*module.split("."))
    path = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    body = ast.parse(path.read_text()).body
    names = {node.name for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    names |= {alias.asname or alias.name for node in body if isinstance(node, ast.ImportFrom) for alias in node.names}
    names |= {at.id for node in body if isinstance(node, ast.Assign) for at in node.targets if isinstance(at, ast.Name)}
    names |= {node.target.id for node in body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}
    return names | ({each.stem for each in place.iterdir()} if place.is_dir() else set())


def test_a_program_in_a_text_of_a_test_imports_what_exists() -> None:
    """A miniature that imports a retired name would crash, and its refusal would prove nothing."""
    found = set(programs_in_strings())

    assert len(found) > 10
    assert {each for each in found if each[2] not in names_of(each[1])} == set()
