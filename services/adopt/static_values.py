"""The plain values of the names at a prepare.py's module level, read from its text; nothing is run.

It knows numbers, texts, paths, and the few calls that build paths. It leaves out a value that the text alone does not
determine, and a name that is assigned inside a branch.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from researcher.source.syntax import worked_out

Value = int | float | str | Path
_LONGEST = 4096  # characters of a joined text


@dataclass(frozen=True)
class Surroundings:
    """The inputs of a value beside the text: the path of the file, the home folder, the environment."""

    file: Path
    home: Path
    environment: Mapping[str, str]


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
            case ast.Call(func=func, args=args, keywords=[]):
                found = self._called(ast.unparse(func).removeprefix("pathlib."), [self.value(arg) for arg in args])
        return found

    def _joined(self, parts: list[ast.expr]) -> str | None:
        values = [self.value(part) for part in parts]
        return None if None in values else "".join(map(str, values))

    def _called(self, name: str, values: list[Value | None]) -> Value | None:
        texts = [str(value) for value in values if isinstance(value, str | Path)]
        found: Value | None = None
        match name:
            case "Path.home" if not values:
                found = self.around.home
            case "os.environ.get" | "os.getenv" if texts:
                found = self.around.environment.get(texts[0], (*texts, None)[1])
            case _ if not texts or len(texts) < len(values):
                pass
            case "Path":
                found = Path(*texts)
            case "os.path.join":
                found = str(Path(*texts))
            case "os.path.expanduser":
                found = str(self._of_home(texts[0]))
            case "os.path.abspath" | "os.path.realpath" | "str":
                found = texts[0]
            case "os.path.dirname":
                found = str(Path(texts[0]).parent)
        return found

    def _of_home(self, text: str) -> Path:
        return self.around.home / text[2:] if text.startswith("~/") else self.around.home if text == "~" else Path(text)


def _combined(left: Value | None, op: ast.operator, right: Value | None) -> Value | None:
    match left, op, right:
        case (Path(), ast.Div(), str() | Path()):
            return left / right
        case (str(), ast.Add(), str()) if len(left) + len(right) <= _LONGEST:
            return left + right
        case (int() | float(), _, int() | float()):
            return worked_out(left, op, right)
    return None
