"""Finds functions, classes and methods by qualified name, and replaces them as a whole with their decorators.

The new text gets the indentation of the old one; all other text stays byte for byte. A name with two definitions (an
overload, a property's setter, both branches of an `if`) is refused with its lines.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterator

from researcher.errors import EditError
from researcher.source.syntax import LINE_END, Bytes, line_end, parse, replace_spans

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef

_SHOWN_NAMES = 8
_OPENING = "if 1:\n"  # makes an indented definition parse


def defined_name(text: str) -> str | None:
    """Return the name of the one definition in `text`, or None if `text` contains anything else.

    Raises EditError for a text that does not parse.
    """
    found = _only_definition(_parsable(text))
    return found.name if found else None


def replace_definition(source: str, name: str | None, definition: str, number: int) -> str:
    """Return `source` with the definition of `name`, or of the new definition's own name, replaced.

    Raises EditError, which calls this edit `number`.
    """
    text = _parsable(definition)
    new = _only_definition(text)
    if new is None:
        raise EditError(
            f"FUNCTION of edit {number} wants one whole def or class, with its decorators, and nothing else"
        )
    where = Bytes(source)
    start, end = _span(where, _place(source, name, new.name, number))
    lines = _indented(text, new, _indentation(where, start))
    return replace_spans(source, [(start, end, line_end(source).join(lines))])


def definition_around(source: str, line: int) -> str | None:
    """Return the qualified name of the innermost definition that contains a line, or None."""
    try:
        around = [
            (node.lineno, name)
            for name, node in _definitions(parse(source))
            if node.lineno <= line <= (node.end_lineno or node.lineno)
        ]
    except EditError:
        return None
    return max(around, default=(0, None))[1]


def _parsable(text: str) -> str:
    text = LINE_END.sub("\n", text)
    code = (line for line in text.split("\n") if line.strip() and not line.lstrip().startswith("#"))
    return _OPENING + text if next(code, "").startswith((" ", "\t")) else text


def _only_definition(text: str) -> Definition | None:
    body = parse(text, "the definition").body
    if text.startswith(_OPENING) and len(body) == 1 and isinstance(body[0], ast.If):
        body = body[0].body
    return body[0] if len(body) == 1 and isinstance(body[0], Definition) else None


def _place(source: str, name: str | None, own_name: str, number: int) -> Definition:
    """Return the only definition with that name. A name without its class matches if it is unique."""
    wanted = (name or own_name).replace("<locals>.", "")
    known = sorted(_definitions(parse(source)), key=lambda item: item[1].lineno)
    exact = [item for item in known if item[0] == wanted] if name is not None else []
    found = exact or [item for item in known if f".{item[0]}".endswith(f".{wanted}")]
    if len(found) == 1:
        return found[0][1]
    if found:
        shown = ", ".join(f"{qualified} in line {node.lineno}" for qualified, node in found[:_SHOWN_NAMES])
        raise EditError(
            f"FUNCTION of edit {number}: train.py defines {wanted} {len(found)} times ({shown}); "
            "write its qualified name, or a SEARCH block where the names are the same"
        )
    names = [qualified for qualified, _ in known]
    near = difflib.get_close_matches(wanted, names, n=_SHOWN_NAMES, cutoff=0.4) or names[:_SHOWN_NAMES]
    raise EditError(
        f"FUNCTION of edit {number}: train.py defines no {wanted}; it has {', '.join(near) or 'no definitions'}. "
        "What is new goes in with a SEARCH block"
    )


def _definitions(tree: ast.Module) -> Iterator[tuple[str, Definition]]:
    """Yield all definitions, also nested ones, with their qualified names."""
    waiting: list[tuple[str, ast.AST]] = [("", tree)]
    while waiting:
        prefix, node = waiting.pop()
        for child in ast.iter_child_nodes(node):
            if isinstance(child, Definition):
                yield prefix + child.name, child
                waiting.append((f"{prefix}{child.name}.", child))
            else:
                waiting.append((prefix, child))


def _span(where: Bytes, node: Definition) -> tuple[int, int]:
    """Return the start and end byte: from the first decorator, or the definition, to the end of the last line."""
    start, end = where.span(node)
    if node.decorator_list:
        start = where.raw.rindex(b"@", 0, where.span(node.decorator_list[0])[0])
    return start, end + len(where.rest_of_line(end).encode())


def _indentation(where: Bytes, start: int) -> str:
    before = where.raw[max(where.raw.rfind(b"\n", 0, start), where.raw.rfind(b"\r", 0, start)) + 1 : start]
    return before.decode().lstrip("\f")


def _indented(text: str, node: Definition, wanted: str) -> list[str]:
    """Return the lines of `node`, all but the first with the indentation `wanted`.

    Lines inside strings stay unchanged.
    """
    where = Bytes(text)
    start, end = _span(where, node)
    first = where.raw.count(b"\n", 0, start) + 1
    own = _indentation(where, start)
    fixed = _lines_inside_texts(node)
    lines = where.raw[start:end].decode().split("\n")
    return [
        wanted + line[len(own) :]
        if number > first and number not in fixed and line.startswith(own) and line.strip()
        else line
        for number, line in enumerate(lines, start=first)
    ]


def _lines_inside_texts(node: Definition) -> set[int]:
    """Return the lines that begin inside a string, where blanks are content. Docstrings are not included."""
    docstrings = {
        id(child.body[0].value)
        for child in ast.walk(node)
        if isinstance(child, Definition) and isinstance(child.body[0], ast.Expr)
    }
    return {
        number
        for child in ast.walk(node)
        if isinstance(child, (ast.Constant, ast.JoinedStr)) and id(child) not in docstrings
        for number in range(child.lineno + 1, (child.end_lineno or child.lineno) + 1)
    }
