"""Parses Python source without surprises, and replaces parts of it byte for byte. This module never runs the source."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator

from researcher.errors import EditError

LINE_END = re.compile(r"\r\n|\r|\n")
_LARGEST = 2**64
_LINE = re.compile(rb"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")


def parse(source: str, what: str = "train.py") -> ast.Module:
    """Parse a source. Raises EditError, with the line and its text, and no other error for any source."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an invalid escape in a subject is no concern here
            return ast.parse(source)
    except SyntaxError as error:
        raise EditError(f"{what} does not parse: {syntax_fault(error, source)}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise EditError(f"{what} does not parse: {error or type(error).__name__}") from error


def replace_spans(source: str, spans: list[tuple[int, int, str]]) -> str:
    """Return `source` with each (start byte, end byte, new text) replaced. Spans must not overlap."""
    raw = source.encode()
    pieces, at = [], 0
    for start, end, text in sorted(spans):
        pieces += [raw[at:start], text.encode()]
        at = end
    return b"".join([*pieces, raw[at:]]).decode()


def line_end(source: str) -> str:
    """Return the first line end of `source`, for added lines."""
    found = LINE_END.search(source)
    return found.group() if found else "\n"


def outside_functions(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield every node of the module's own code, without the insides of functions, lambdas and classes."""
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            waiting.extend(ast.iter_child_nodes(node))


def stored_outside_functions(tree: ast.Module) -> set[str]:
    """Return the names that the module's own code assigns."""
    nodes = outside_functions(tree)
    return {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def worked_out(left: float, operator: ast.operator, right: float) -> int | float | None:
    """Compute an arithmetic operation. Return None if the result is large or undefined, or for another operation."""
    if not (abs(left) < _LARGEST and abs(right) < _LARGEST):
        return None
    whole = isinstance(left, int) and isinstance(right, int)
    result: int | float | None = None
    match operator:
        case ast.Add():
            result = left + right
        case ast.Sub():
            result = left - right
        case ast.Mult():
            result = left * right
        case ast.Div() if right:
            result = left / right
        case ast.FloorDiv() if right:
            result = left // right
        case ast.Pow() if 0 <= right < 64 and 0 < left <= 1024:
            result = left**right
        case ast.LShift() if whole and 0 <= right < 64:
            result = int(left) << int(right)
    return result if result is not None and abs(result) < _LARGEST else None


class Bytes:
    """Finds the UTF-8 bytes of a syntax node. `ast` counts columns in bytes and ends lines at CR, LF and CRLF only."""

    def __init__(self, source: str) -> None:
        self.raw = source.encode()
        self._starts = [0]
        for line in _LINE.finditer(self.raw):
            self._starts.append(line.end())

    def line_start(self, line: int) -> int:
        """Return the first byte of a line. Lines count from 1."""
        return self._starts[line - 1]

    def line(self, line: int) -> str:
        """Return the text of a line, or an empty text for line 0."""
        return self.rest_of_line(self.line_start(line)) if line else ""

    def span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        """Return the start and end byte of `node`."""
        if node.end_lineno is None or node.end_col_offset is None:
            raise EditError(f"train.py line {node.lineno}: the parser gives no end for what begins there")
        return self._starts[node.lineno - 1] + node.col_offset, self._starts[node.end_lineno - 1] + node.end_col_offset

    def rest_of_line(self, offset: int) -> str:
        """Return the text from byte `offset` to the end of its line."""
        found = re.compile(rb"[^\r\n]*").match(self.raw, offset)
        return found.group().decode() if found else ""


def syntax_fault(error: SyntaxError, source: str) -> str:
    """Describe a syntax error: line, message and the line's text, which the compiler's errors lack."""
    if error.lineno is None:
        return error.msg
    lines = _LINE.findall(source.encode())
    text = lines[error.lineno - 1].decode() if 0 < error.lineno <= len(lines) else ""
    return f"line {error.lineno}: {error.msg}" + (f": {text.strip()[:200]}" if text.strip() else "")
