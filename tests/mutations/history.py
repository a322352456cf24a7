"""What git says of this checkout: what changed lately, and whose turn it is.

Nothing records which commit passed last, since several land at once. What may have landed with HEAD is therefore taken
as changed: all since the commit that `origin/main` names, where HEAD goes on from there, else since the newest commit
that is a day older than HEAD. A shallow clone that does not reach back so far is compared with its oldest commit.
"""

from __future__ import annotations

import ast
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests import ROOT
from tests.mutations.choice import Facts, chosen
from tests.mutations.guards import GUARDS

DAY_S = 24 * 3600
TABLE = "tests/mutations/guards.py"


@dataclass(frozen=True)
class _Base:
    commit: str
    words: str


@cache
def of_this_checkout() -> Facts | None:
    """The facts, or None outside of a repository."""
    return facts(ROOT) if (ROOT / ".git").exists() else None


@cache
def of_this_run() -> dict[str, str]:
    """The guards that this checkout takes away where not all are asked for, each with the reason."""
    return chosen(GUARDS, of_this_checkout())


def facts(root: Path) -> Facts:
    """The turn is the number of the commit, so that neighbours have different ones; a shallow clone cannot count, and
    takes the commit's id for a number."""
    commit = _git(root, "rev-parse", "HEAD")
    shallow = _git(root, "rev-parse", "--is-shallow-repository") == "true"
    turn = int(commit[:8], 16) if shallow else int(_git(root, "rev-list", "--count", "HEAD"))
    base = _base(root, commit)
    if base is None:
        return Facts(turn, "without history: nothing tells what changed")
    return Facts(turn, f"since {base.words}", _changed(root, base.commit), _entries(root, base.commit))


def _base(root: Path, commit: str) -> _Base | None:
    """What to compare with; None where HEAD is the only commit."""
    main = _git(root, "for-each-ref", "--format=%(objectname)", "refs/remotes/origin/main")
    shared = _git(root, "merge-base", "HEAD", main, may_find_nothing=True) if main else ""
    if shared and shared != commit:
        return _Base(shared, f"{shared[:7]}, where it left origin/main")
    dates = {name: int(date) for name, date in map(str.split, _git(root, "log", "--format=%H %ct").splitlines())}
    a_day_old = [name for name, date in dates.items() if date <= dates[commit] - DAY_S]
    if a_day_old:
        return _Base(a_day_old[0], f"{a_day_old[0][:7]}, a day before it")
    oldest = list(dates)[-1]
    return _Base(oldest, f"{oldest[:7]}, the oldest commit here") if oldest != commit else None


def _changed(root: Path, base: str) -> frozenset[str]:
    """Files that differ from the base, with what is not committed yet."""
    differ = _git(root, "diff", "--name-only", "--no-renames", "-z", base)
    new = _git(root, "ls-files", "--others", "--exclude-standard", "-z")
    return frozenset(filter(None, f"{differ}\0{new}".split("\0")))


def _entries(root: Path, base: str) -> frozenset[str]:
    """The guards on whose lines of the table something differs from the base."""
    differs = _git(root, "diff", "--unified=0", "--no-color", "--no-ext-diff", base, "--", TABLE)
    lines = {at for line in differs.splitlines() if line.startswith("@@ ") for at in _lines_of(line)}
    calls = (node for node in ast.walk(ast.parse((root / TABLE).read_text())) if isinstance(node, ast.Call))
    return frozenset(
        call.args[0].value
        for call in calls
        if isinstance(call.func, ast.Name)
        and call.func.id == "Guard"
        and isinstance(call.args[0], ast.Constant)
        and lines & set(range(call.lineno, (call.end_lineno or call.lineno) + 1))
    )


def _lines_of(hunk: str) -> range:
    """The lines of the new file in a heading such as `@@ -3,2 +5,4 @@`."""
    first, _, count = hunk.split()[2].removeprefix("+").partition(",")
    return range(int(first), int(first) + int(count or 1))


def _git(root: Path, *words: str, may_find_nothing: bool = False) -> str:
    done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=False)
    if done.returncode != 0 and not (may_find_nothing and done.returncode == 1):
        raise RuntimeError(f"git {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout.strip()
