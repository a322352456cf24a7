"""Reads from a training script how many first steps its own clock leaves out: 1, 11, 200 or none.

Two forms are understood: a sum of step times that begins under a condition on the step, and a start time that is set
again at a step. Nothing is run; a condition on anything but the step and plain numbers gives None.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

_BUDGET = "TIME_BUDGET"
_MOST_STEPS = 10_000
_TIMES = ("time", "perf_counter", "monotonic")
_OF_A_TEST = (
    ast.Compare, ast.BoolOp, ast.UnaryOp, ast.BinOp, ast.Name, ast.Constant, ast.expr_context,
    ast.cmpop, ast.boolop, ast.unaryop, ast.Add, ast.Sub, ast.Mult, ast.Mod, ast.FloorDiv,
)  # fmt: skip
Loop = ast.While | ast.For


@dataclass(frozen=True)
class _Counting:
    """A statement from which on the clock counts, the conditions around it, and the uncounted steps beside those."""

    statement: ast.stmt
    tests: tuple[ast.expr, ...]
    more: int = 0


def uncounted_steps(script: ast.Module) -> int | None:
    """Return how many first steps the script's clock leaves out, or None if the text does not tell."""
    budget = {_BUDGET} | {
        name for node in ast.walk(script) if isinstance(node, ast.Assign) and not _times(node.value)
        for name in _targets(node) if name.isupper() and _BUDGET in _names(node.value)
    }  # fmt: skip
    loops = [node for node in ast.walk(script) if isinstance(node, Loop) and budget & _names(node)]
    if not loops:
        return None
    loop = loops[0]
    clock = _clock_names(loop, budget)
    found = [_first_counted(each, loop, script) for each in _countings(loop, clock)]
    if found:
        return found[0] if len(set(found)) == 1 else None
    started = {name for node in ast.walk(script) if isinstance(node, ast.Assign) and _times(node.value)
               for name in _targets(node)}  # fmt: skip
    return 0 if clock & started else None


def _clock_names(loop: Loop, budget: set[str]) -> set[str]:
    """Return the names that the loop compares with the budget or divides by it, and those that they are made of."""
    met = [node for node in ast.walk(loop) if isinstance(node, ast.Compare | ast.BinOp) and budget & _names(node)]
    clock = {name for node in met for name in _names(node)} - budget
    for _ in range(3):
        for node in ast.walk(loop):
            if isinstance(node, ast.Assign) and clock.intersection(_targets(node)):
                clock |= _names(node.value) - budget
    return clock


def _countings(loop: Loop, clock: set[str]) -> Iterator[_Counting]:
    calls = (node for node in ast.walk(loop) if isinstance(node, ast.Call))
    last_step = max((call.lineno for call in calls if ast.unparse(call.func).endswith(".step")), default=0)
    for statement, tests in _statements(loop.body, ()):
        if isinstance(statement, ast.AugAssign) and isinstance(statement.op, ast.Add):
            is_sum, names = True, _names(statement.target)
        elif isinstance(statement, ast.Assign):
            names = set(_targets(statement))
            is_sum = isinstance(statement.value, ast.BinOp) and bool(names & _names(statement.value))
        else:
            continue
        if not names & clock or _is_counter(statement):
            continue
        if is_sum:
            yield _Counting(statement, tests)
        elif tests and isinstance(statement, ast.Assign) and _times(statement.value):
            yield _Counting(statement, tests, more=int(statement.lineno > last_step))


def _statements(
    body: Iterable[ast.stmt], tests: tuple[ast.expr, ...]
) -> Iterator[tuple[ast.stmt, tuple[ast.expr, ...]]]:
    """Return all statements of a body with the conditions around them."""
    for statement in body:
        yield statement, tests
        if isinstance(statement, ast.If):
            yield from _statements(statement.body, (*tests, statement.test))
            yield from _statements(statement.orelse, (*tests, ast.UnaryOp(ast.Not(), statement.test)))
        elif isinstance(statement, ast.With | ast.Try):
            yield from _statements(statement.body, tests)


def _first_counted(counting: _Counting, loop: Loop, script: ast.Module) -> int | None:
    """Return the number of the first step, from 0 on, at which all conditions hold, or None if they cannot be read."""
    numbers = _numbers(script)
    tested = {name for test in counting.tests for name in _names(test)}
    counters = {name: _counts_from(name, counting.statement.lineno, loop, numbers) for name in tested}
    known = {name: start for name, start in counters.items() if start is not None}
    if not all(isinstance(node, _OF_A_TEST) for test in counting.tests for node in ast.walk(test)):
        return None
    if tested - set(known) - set(numbers):
        return None
    for step in range(_MOST_STEPS):
        now = numbers | {name: start + step for name, start in known.items()}
        try:
            if all(_holds(test, now) for test in counting.tests):
                return step + counting.more
        except (ArithmeticError, TypeError):
            return None
    return None


def _holds(test: ast.expr, values: Mapping[str, float]) -> bool:
    """Compute a test of numbers and names; its nodes were all looked at."""
    whole = ast.fix_missing_locations(ast.Expression(test))
    return bool(eval(compile(whole, "<test>", "eval"), {"__builtins__": {}}, dict(values)))


def _numbers(script: ast.Module) -> dict[str, float]:
    """Return the names that are assigned a plain number, each with the last one."""
    found: dict[str, float] = {}
    for node in ast.walk(script):
        if not isinstance(node, ast.Assign):
            continue
        for name, value in (pair for target in node.targets for pair in _paired(target, node.value)):
            if isinstance(value, ast.Constant) and isinstance(value.value, int | float):
                found[name] = value.value
    return found


def _paired(target: ast.expr, value: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    """Return the names of a target, each with the part of the value that it gets."""
    if isinstance(target, ast.Name):
        yield target.id, value
    elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
        for one, its in zip(target.elts, value.elts, strict=True):
            yield from _paired(one, its)


def _counts_from(name: str, line: int, loop: Loop, numbers: Mapping[str, float]) -> int | None:
    """Return the value of a step counter in the loop's first step at a line, or None for a name that counts nothing."""
    if isinstance(loop, ast.For) and name in _names(loop.target):
        return _for_begins_at(loop)
    for node in ast.walk(loop):
        if _is_counter(node) and isinstance(node, ast.AugAssign) and name in _names(node.target):
            return int(numbers.get(name, 0)) + int(node.lineno < line)
    return None


def _for_begins_at(loop: ast.For) -> int | None:
    if not isinstance(loop.iter, ast.Call):
        return None
    called, given = ast.unparse(loop.iter.func).rpartition(".")[2], loop.iter.args
    first = {"range": given[:1] if len(given) > 1 else [], "count": given[:1], "enumerate": given[1:2]}.get(called)
    if first is None:
        return None
    if not first:
        return 0
    return first[0].value if isinstance(first[0], ast.Constant) and isinstance(first[0].value, int) else None


def _is_counter(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.AugAssign)
        and isinstance(node.op, ast.Add)
        and isinstance(node.value, ast.Constant)
        and node.value.value == 1
    )


def _times(value: ast.expr) -> bool:
    calls = (ast.unparse(node.func) for node in ast.walk(value) if isinstance(node, ast.Call))
    return any(called.rpartition(".")[2] in _TIMES for called in calls)


def _targets(node: ast.Assign) -> Iterator[str]:
    return (target.id for whole in node.targets for target in ast.walk(whole) if isinstance(target, ast.Name))


def _names(node: ast.AST) -> set[str]:
    names = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
    is_budget_of_module = any(isinstance(each, ast.Attribute) and each.attr == _BUDGET for each in ast.walk(node))
    return names | {_BUDGET} if is_budget_of_module else names
