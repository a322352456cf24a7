"""Which guards a run takes away: a table, properties over any facts, and small repositories."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.mutations.choice import MOST, TURNS, Facts, chosen, fifth, told
from tests.mutations.guards import GUARDS, Guard
from tests.mutations.history import DAY_S, TABLE, facts

ONE = Guard(
    "no signal to everybody", "trainer/sandbox/seccomp.py", "a", "b", "trainer/sandbox/test_seccomp.py::test_call[kill]"
)
NOT_ITS_TURN = Facts(turn=fifth(ONE) + 1, base="since then")
HISTORIES = st.builds(
    Facts,
    turn=st.integers(0, 2**32),
    base=st.just("since then"),
    paths=st.frozensets(st.sampled_from(sorted({guard.file for guard in GUARDS})), max_size=5),
    entries=st.frozensets(st.sampled_from(sorted(guard.name for guard in GUARDS)), max_size=5),
)


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (NOT_ITS_TURN, None),
        (replace(NOT_ITS_TURN, turn=fifth(ONE)), "its turn"),
        (replace(NOT_ITS_TURN, turn=fifth(ONE) + 7 * TURNS), "its turn"),
        (replace(NOT_ITS_TURN, paths=frozenset({"trainer/sandbox/seccomp.py"})), "changed: trainer/sandbox/seccomp.py"),
        (
            replace(NOT_ITS_TURN, paths=frozenset({"tests/trainer/sandbox/test_seccomp.py"})),
            "changed: tests/trainer/sandbox/test_sec",
        ),
        (replace(NOT_ITS_TURN, paths=frozenset({"trainer/sandbox/test_seccomp.py", "seccomp.py"})), None),
        (replace(NOT_ITS_TURN, entries=frozenset({ONE.name})), "its entry changed"),
        (replace(NOT_ITS_TURN, entries=frozenset({"another"})), None),
        (None, "there is no repository"),
    ],
)
def test_a_guard_is_taken_away_for_a_reason(seen: Facts | None, reason: str | None) -> None:
    reasons = chosen([ONE], seen)

    assert list(reasons) == ([] if reason is None else [ONE.name])
    assert reasons.get(ONE.name, "").startswith(reason or "")


@given(HISTORIES, st.lists(st.frozensets(st.sampled_from(GUARDS)), min_size=TURNS, max_size=TURNS))
def test_five_turns_in_a_row_take_every_guard_away_whatever_guards_come_and_go(
    seen: Facts, gone: list[frozenset[Guard]]
) -> None:
    taken: set[str] = set()
    for later, absent in enumerate(gone):
        taken |= chosen(set(GUARDS) - absent, replace(seen, turn=seen.turn + later)).keys()

    always_there = set(GUARDS) - frozenset().union(*gone)
    assert {guard.name for guard in always_there} <= taken


@given(HISTORIES)
def test_what_changed_is_always_taken_away(seen: Facts) -> None:
    changed = {guard.name for guard in GUARDS if guard.file in seen.paths} | seen.entries

    assert changed <= chosen(GUARDS, seen).keys()


@given(st.integers(0, 2**32))
def test_if_too_many_changed_those_of_the_next_turns_come_first_and_five_turns_take_all(turn: int) -> None:
    everything = Facts(turn, "since then", paths=frozenset(guard.file for guard in GUARDS))

    now = chosen(GUARDS, everything)

    assert len(now) == MOST
    assert {guard.name for guard in GUARDS if fifth(guard) == turn % TURNS} <= now.keys()
    assert f"the {MOST} that a run takes away" in told(now, len(GUARDS), everything)[-1]
    taken = {name for later in range(TURNS) for name in chosen(GUARDS, replace(everything, turn=turn + later))}
    assert taken == {guard.name for guard in GUARDS}


def test_no_turn_has_more_than_a_third_of_the_guards() -> None:
    sizes = [len(chosen(GUARDS, Facts(turn, "since then"))) for turn in range(TURNS)]

    assert sum(sizes) == len(GUARDS)
    assert max(sizes) < len(GUARDS) / 3


def test_the_head_of_a_run_names_every_guard_with_its_reason() -> None:
    seen = replace(NOT_ITS_TURN, turn=fifth(ONE))

    lines = told(chosen([ONE], seen), 5, seen)

    assert lines == [
        f"guards taken away: 1 of 5 (turn {fifth(ONE)} of 5, since then)",
        "  its turn: no signal to everybody",
    ]


Commit = Callable[..., str]
OTHER = ONE.__class__("another", "trainer/sandbox/launch.py", "c", "d", "trainer/worker/test_rq_worker.py::test_it")


def table(*guards: Guard) -> str:
    return (
        "GUARDS = (\n"
        + "".join(f'    Guard(\n        "{each.name}",\n        "{each.old}",\n    ),\n' for each in guards)
        + ")\n"
    )


@pytest.fixture
def commit(tmp_path: Path) -> Commit:
    """Commits files, at an hour of a day, in a repository of its own; answers with the id."""

    def git(*words: str, hour: float = 0) -> str:
        date = f"{int(1_700_000_000 + 3600 * hour)} +0000"
        env = os.environ | {"GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date}
        named = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        argv = ["git", *named, *words]
        return subprocess.run(argv, cwd=tmp_path, env=env, check=True, capture_output=True, text=True).stdout.strip()

    def made(hour: float, **files: str) -> str:
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        git("add", "--all")
        git("commit", "--quiet", "--allow-empty", "--message", "x", hour=hour)
        return git("rev-parse", "HEAD")

    git("init", "--quiet", "--initial-branch=main")
    (tmp_path / TABLE).parent.mkdir(parents=True)
    (tmp_path / TABLE).write_text(table(ONE))
    return made


def test_what_changed_within_a_day_of_the_newest_commit_is_changed(commit: Commit, tmp_path: Path) -> None:
    commit(0, a="1", b="1", c="1")
    old = commit(2, a="2")
    commit(2.5, b="2")
    commit(26, c="2")

    seen = facts(tmp_path)

    assert (seen.turn, seen.paths) == (4, {"b", "c"})
    assert seen.base == f"since {old[:7]}, a day before it"
    assert DAY_S == 24 * 3600


def test_what_is_not_committed_yet_is_changed(commit: Commit, tmp_path: Path) -> None:
    commit(0, a="1", b="1")
    commit(48)
    (tmp_path / "a").write_text("2")
    (tmp_path / "new").write_text("1")

    assert facts(tmp_path).paths == {"a", "new"}


def test_the_commit_of_origin_counts_where_head_goes_on_from_it(commit: Commit, tmp_path: Path) -> None:
    commit(0, a="1", b="1")
    shared = commit(1, a="2")
    commit(2, b="2")
    subprocess.run(["git", "update-ref", "refs/remotes/origin/main", shared], cwd=tmp_path, check=True)

    seen = facts(tmp_path)

    assert seen.paths == {"b"}
    assert seen.base == f"since {shared[:7]}, where it left origin/main"


def test_a_clone_whose_origin_is_where_head_is_goes_by_the_day(commit: Commit, tmp_path: Path) -> None:
    commit(0, a="1")
    newest = commit(30, a="2")
    subprocess.run(["git", "update-ref", "refs/remotes/origin/main", newest], cwd=tmp_path, check=True)

    assert facts(tmp_path).base.endswith("a day before it")


def test_only_the_guards_whose_lines_changed_have_a_changed_entry(commit: Commit, tmp_path: Path) -> None:
    commit(0)
    commit(48, tests__mutations__guards=table(ONE))
    (tmp_path / TABLE).write_text(table(ONE, OTHER))

    assert facts(tmp_path).entries == {"another"}

    (tmp_path / TABLE).write_text(table(replace(ONE, old="z")))

    assert facts(tmp_path).entries == {ONE.name}


@pytest.mark.parametrize(
    ("depth", "paths", "base"), [(1, set(), "without history"), (2, {"b"}, "the oldest commit here")]
)
def test_a_shallow_clone_is_compared_with_what_it_has_and_takes_its_turn_from_its_commit(
    commit: Commit, tmp_path: Path, depth: int, paths: set[str], base: str
) -> None:
    commit(0, a="1", b="1")
    commit(1, a="2")
    newest = commit(2, b="2")
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", f"--depth={depth}", f"file://{tmp_path}", clone], check=True)

    seen = facts(clone)

    assert (seen.turn, seen.paths) == (int(newest[:8], 16), paths)
    assert base in seen.base
