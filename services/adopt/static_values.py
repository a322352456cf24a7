"""The plain values of the names at a prepare.py's module level, read from its text; nothing is run.

It knows numbers, texts, paths, variables of the environment, and the few calls that build paths. It leaves out a value
that the text alone does not determine, and a name that is assigned inside a branch.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from researcher.source.syntax import worked_out

Value = int | float | str | Path
_READERS = ("os.environ.get", "os.getenv")
_LONGEST = 4096  # characters of a joined text


@dataclass(frozen=True)
class Surroundings:
    """The inputs of a value beside the text: the path of the file, the home folder, the environment.

    `gpu` tells whether trials have a GPU, and `capability` its compute capability, if the driver says it.
    """

    file: Path
    home: Path
    environment: Mapping[str, str]
    gpu: bool = False
    capability: tuple[int, int] | None = None


def read_constants(tree: ast.Module, around: Surroundings) -> dict[str, Value]:
    """Return every name at module level that has a plain value."""
    known: dict[str, Value] = {"__file__": str(around.file)}
    for statement in tree.body:
        match statement:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=node)
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as node)
            ):
                value = _Reader(known, around).value(node)
                known.pop(name, None)
                if value is not None:
                    known[name] = value
            case ast.AugAssign(target=ast.Name(id=name)):
                known.pop(name, None)
    del known["__file__"]
    return known


@dataclass(frozen=True)
class _Reader:
    known: Mapping[str, Value]
    around: Surroundings

    def value(self, node: ast.expr) -> Value | None:
        found: Value | None = None
        match node:
            case ast.Constant(value=int() | float() | str() as plain) if not isinstance(plain, bool):
                found = plain
            case ast.Name(id=name):
                found = self.known.get(name)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                number = self.value(operand)
                found = -number if isinstance(number, int | float) else None
            case ast.BinOp(left=left, op=op, right=right):
                found = _combined(self.value(left), op, self.value(right))
            case ast.JoinedStr(values=parts):
                found = self._joined([part.value if isinstance(part, ast.FormattedValue) else part for part in parts])
            case ast.Attribute(value=of, attr="parent"):
                path = self.value(of)
                found = path.parent if isinstance(path, Path) else None
            case ast.Call(
                func=ast.Attribute(value=of, attr="expanduser" | "resolve" | "absolute"), args=[], keywords=[]
            ):
                path = self.value(of)
                found = self._of_home(str(path)) if isinstance(path, Path) else None
            case ast.Subscript(value=of, slice=ast.Constant(value=str() as name)) if ast.unparse(of) == "os.environ":
                found = self.around.environment.get(name)
            case ast.BoolOp(op=ast.Or(), values=[ast.Call(func=func) as first, second]) if (
                ast.unparse(func) in _READERS
            ):
                found = self.value(first) or self.value(second)
            case ast.Call(func=func, args=args, keywords=[]):
                found = self._called(ast.unparse(func).removeprefix("pathlib."), [self.value(arg) for arg in args])
        return found

    def _joined(self, parts: list[ast.expr]) -> str | None:
        values = [self.value(part) for part in parts]
        return None if None in values else "".join(map(str, values))

    def _called(self, name: str, values: list[Value | None]) -> Value | None:
        texts = [str(value) for value in values if isinstance(value, str | Path)]
        found: Value | None = None
        match name, values:
            case "Path.home", []:
                found = self.around.home
            case "os.environ.get" | "os.getenv", [str() as variable, *default]:
                found = self.around.environment.get(variable, (*default, None)[0])
            case "int" | "float" as kind, [int() | float() | str() as value]:
                found = _number(kind, value)
            case _ if not texts or len(texts) < len(values):
                pass
            case "Path", _:
                found = Path(*texts)
            case "os.path.join", _:
                found = str(Path(*texts))
            case "os.path.expanduser", _:
                found = str(self._of_home(texts[0]))
            case "os.path.abspath" | "os.path.realpath" | "str", _:
                found = texts[0]
            case "os.path.dirname", _:
                found = str(Path(texts[0]).parent)
        return found

    def _of_home(self, text: str) -> Path:
        return self.around.home / text[2:] if text.startswith("~/") else self.around.home if text == "~" else Path(text)


def variables_read(tree: ast.Module) -> set[str]:
    """Return the names of the environment's variables that a script names where it reads them."""
    found = set()
    for node in ast.walk(tree):
        match node:
            case ast.Subscript(value=of, slice=ast.Constant(value=str() as name)):
                found |= {name} if ast.unparse(of) == "os.environ" else set()
            case ast.Call(func=func, args=[ast.Constant(value=str() as name), *_]):
                found |= {name} if ast.unparse(func) in _READERS else set()
    return found


def _number(kind: str, value: float | str) -> int | float | None:
    try:
        return int(value) if kind == "int" else float(value)
    except (ValueError, OverflowError):
        return None


def _combined(left: Value | None, op: ast.operator, right: Value | None) -> Value | None:
    match left, op, right:
        case (Path(), ast.Div(), str() | Path()):
            return left / right
        case (str(), ast.Add(), str()) if len(left) + len(right) <= _LONGEST:
            return left + right
        case (int() | float(), _, int() | float()):
            return worked_out(left, op, right)
    return None
