"""Under which conditions each part of a script runs, read from its syntax tree.

Only conditions about a GPU and handlers of errors are understood. For every other `if` it is unknown whether its body
runs. A function runs under the conditions of the places that call it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, replace

_OF_A_GPU = ("is_available", "cuda")
_OF_TYPES = "TYPE_CHECKING"


@dataclass(frozen=True)
class Place:
    """The conditions of a part of a script.

    `handled`: an error there is caught. `on_gpu`: it runs only with a GPU (True), only without one (False), or in both
    cases (None). `unknown`: it runs under a condition that the text does not decide. `function` contains it, if any.
    """

    handled: bool = False
    on_gpu: bool | None = None
    unknown: bool = False
    function: str | None = None

    def must_run(self, *, gpu: bool) -> bool:
        """Return whether the part surely runs, and an error in it ends the script."""
        return not self.handled and not self.unknown and self.on_gpu in (None, gpu)

    def may_run(self, *, gpu: bool) -> bool:
        """Return whether the part may run on such a machine."""
        return self.on_gpu in (None, gpu)

    def within(self, outer: Place) -> Place:
        """Return the conditions of a function's part when the function is called at `outer`."""
        return replace(
            self,
            handled=self.handled or outer.handled,
            on_gpu=outer.on_gpu if self.on_gpu is None else self.on_gpu,
            unknown=self.unknown or outer.unknown,
        )


def placed(tree: ast.Module) -> list[tuple[ast.AST, Place]]:
    """Return every node of a script with its conditions."""
    found = [pair for statement in tree.body for pair in _walk(statement, Place())]
    calls: dict[str, list[Place]] = {}
    for node, place in found:
        if isinstance(node, ast.Call):
            calls.setdefault(ast.unparse(node.func).rpartition(".")[2], []).append(place)
    return [(node, _called(place, calls)) for node, place in found]


def _called(place: Place, calls: dict[str, list[Place]]) -> Place:
    """Add the conditions of a function's calls to those of its part; a function that nothing calls may never run."""
    if place.function is None or place.function.startswith("__"):
        return place
    callers = [each for each in calls.get(place.function, ()) if each.function != place.function]
    if not callers:
        return replace(place, unknown=True)
    return place.within(
        Place(
            handled=all(each.handled for each in callers),
            on_gpu=callers[0].on_gpu if len({each.on_gpu for each in callers}) == 1 else None,
            unknown=all(each.unknown for each in callers),
        )
    )


def _walk(node: ast.AST, place: Place) -> Iterator[tuple[ast.AST, Place]]:
    yield node, place
    match node:
        case ast.Try(body=body, handlers=handlers, orelse=orelse, finalbody=final):
            yield from _all(body, replace(place, handled=place.handled or bool(handlers)))
            yield from _all(handlers, replace(place, unknown=True))
            yield from _all([*orelse, *final], place)
        case ast.If(test=test, body=body, orelse=orelse):
            yield from _walk(test, place)
            yield from _all(body, _under(test, place, holds=True))
            yield from _all(orelse, _under(test, place, holds=False))
        case ast.IfExp(test=test, body=value, orelse=other):
            yield from _walk(test, place)
            yield from _walk(value, _under(test, place, holds=True))
            yield from _walk(other, _under(test, place, holds=False))
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            yield from _all(list(ast.iter_child_nodes(node)), replace(place, function=name))
        case _:
            yield from _all(list(ast.iter_child_nodes(node)), place)


def _all(
    nodes: list[ast.AST] | list[ast.stmt] | list[ast.ExceptHandler], place: Place
) -> Iterator[tuple[ast.AST, Place]]:
    for node in nodes:
        yield from _walk(node, place)


def _under(test: ast.expr, place: Place, *, holds: bool) -> Place:
    text = ast.unparse(test)
    if _OF_TYPES in text:
        return replace(place, handled=True)
    if text.replace('"', "'") == "__name__ == '__main__'":
        return place if holds else replace(place, unknown=True)
    if not any(word in text for word in _OF_A_GPU) or isinstance(test, ast.BoolOp) or "mps" in text:
        return replace(place, unknown=True)
    negated = isinstance(test, ast.UnaryOp) or any(
        isinstance(part, ast.NotEq | ast.IsNot | ast.NotIn) for part in ast.walk(test)
    )
    with_gpu = holds != negated
    return replace(place, unknown=True) if place.on_gpu not in (None, with_gpu) else replace(place, on_gpu=with_gpu)
