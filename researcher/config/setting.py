"""What a row of the table of settings is made of: types with their range, who reads a key, where it is set, a fault.

The rows are fields of the classes in `researcher.config.settings`; `rows_of` reads them. A text in a file and a value
of the environment are held to the same type, so that no range is written down twice.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, Flag, StrEnum, auto
from functools import cached_property
from itertools import pairwise
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from researcher.errors import BadValue

_T = TypeVar("_T")


class Reader(Flag):
    """Who reads a key. Compose sees gpu.env and the shell that calls it, not gpu.local.env."""

    RESEARCHER = auto()
    TRAINER = auto()
    SERVICES = auto()
    COMPOSE = auto()


class Source(StrEnum):
    """Where a key is set: in gpu.env, in the environment of local mode alone, or by whatever starts a process."""

    GPU_ENV = "gpu.env"
    ENVIRONMENT = "environment"
    STARTER = "starter"


@dataclass(frozen=True)
class Shipped:
    """The value of a key in gpu.env as it is committed. Such a key must have a value; other keys may be empty."""

    value: str


@dataclass(frozen=True)
class Written:
    """How a value is written in gpu.env. `wanted` and `example` are words for an error."""

    pattern: str
    wanted: str
    example: str


def one_of(names: Iterable[str]) -> Written:
    """One of these words; the first is the example."""
    words = list(names)
    return Written("|".join(map(re.escape, words)), "one of " + ", ".join(words), words[0])


@dataclass(frozen=True)
class SettingFault:
    """What is wrong with a setting, and what to do about it."""

    key: str
    found: str
    next_step: str

    def __str__(self) -> str:
        return f"{self.found}; {self.next_step}"


@dataclass(frozen=True)
class Setting:
    """A row of the table. `kind` is its type with everything that the type is annotated with."""

    key: str
    kind: Any
    default: Any
    help: str
    readers: Reader
    source: Source
    shipped: str
    written: Written | None

    @property
    def summary(self) -> str:
        """The first sentence of the help."""
        return re.split(r"(?<=[^.]\.) ", self.help)[0]

    @property
    def is_optional(self) -> bool:
        """Whether gpu.env may leave the value empty."""
        return not self.shipped

    def fault_of(self, text: str) -> SettingFault | None:
        """What is wrong with a text in gpu.env."""
        if not text:
            return None if self.is_optional else self.refusal(text)
        try:
            self._adapter.validate_python(text)
        except ValidationError as error:
            return self.fault_in(error.errors()[0])
        if self.written is None or re.fullmatch(self.written.pattern, text, re.ASCII):
            return None
        return self.refusal(text)

    def fault_in(self, error: ErrorDetails) -> SettingFault:
        """What pydantic found wrong with a value, which is not quoted where it may hold a key."""
        if isinstance(refused := error.get("ctx", {}).get("error"), BadValue):
            found = refused.found if refused.found.startswith(self.key) else f"{self.key}: {refused.found}"
            return SettingFault(self.key, found, refused.next_step)
        if error["type"] == "missing":
            return SettingFault(self.key, f"{self.key} is not set", f"it has to be: {self.summary}")
        if self.written is None:
            return SettingFault(self.key, f"{self.key}: {error['msg']}", f"fix it: {self.summary}")
        return self.refusal(error["input"])

    def refusal(self, value: object) -> SettingFault:
        """The sentence for a value that is not of the form that is wanted."""
        assert self.written is not None, f"{self.key} stands in gpu.env and has no form"
        found = f"{self.key}={value} is not {self.written.wanted}"
        return SettingFault(self.key, found, f"write for example {self.key}={self.written.example}")

    @cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        return TypeAdapter(self.kind)


def rows_of(*tables: type[BaseModel], written: str) -> Iterable[Setting]:
    """The rows that the fields of classes are; `written` is the text of the module that they stand in."""
    helps = dict(_helps(written))  # pydantic would find them too, in ten times as long
    for table in tables:
        hints = get_type_hints(table, include_extras=True)
        for name, field in table.model_fields.items():
            yield _row(name, hints[name], field.default, helps[name])


def _helps(module: str) -> Iterable[tuple[str, str]]:
    """The name of every field of a class, with the string below it."""
    for node in ast.walk(ast.parse(module)):
        for field, below in pairwise(node.body if isinstance(node, ast.ClassDef) else ()):
            if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
                yield ast.unparse(field.target), " ".join(ast.literal_eval(below.value).split())


def _row(name: str, kind: Any, default: Any, about: str) -> Setting:
    return Setting(
        key=name.upper(),
        kind=kind,
        default=default,
        help=about,
        readers=_noted(kind, Reader, Reader(0)),
        source=_noted(kind, Source, Source.GPU_ENV),
        shipped=_noted(kind, Shipped, Shipped("")).value,
        written=_written(kind),
    )


def _noted(hint: Any, kind: type[_T], otherwise: _T) -> _T:
    return next((each for each in _parts(hint) if isinstance(each, kind)), otherwise)


def _written(hint: Any) -> Written | None:
    """As annotated, else the words of an enumeration."""
    parts = list(_parts(hint))
    words = [part for part in parts if isinstance(part, type) and issubclass(part, Enum)]
    return next((part for part in parts if isinstance(part, Written)), one_of(words[0]) if words else None)


def _parts(hint: Any) -> Iterable[Any]:
    """A type, what it is annotated with, and the same of the types in it."""
    yield hint
    if get_origin(hint) is Annotated:
        yield from hint.__metadata__
    for part in get_args(hint):
        yield from _parts(part)


_WHOLE = r"\d{1,9}"
_NUMBER = r"\d{1,9}(\.\d{1,9})?"
_PLACE = r"(/|\./|\.\./|~/)[^:$\n]*"  # anything else would be the name of a volume
_ABOVE_ZERO = Field(gt=0, allow_inf_nan=False)

Count = Annotated[int, Field(ge=1), Written(_WHOLE, "a whole number of at least 1", "100")]
Mib = Annotated[int, Field(gt=0), Written(_WHOLE, "a whole number of MiB", "12288")]
ContextTokens = Annotated[int, Field(ge=2048), Written(_WHOLE, "a whole number of tokens, at least 2048", "16384")]
AnswerTokens = Annotated[int, Field(ge=256), Written(_WHOLE, "a whole number of tokens, at least 256", "4096")]
Share = Annotated[float, Field(ge=0, le=1), Written(_NUMBER, "a share from 0 to 1", "0.1")]
Limit = Annotated[float, _ABOVE_ZERO, Written(_NUMBER, "a number above 0", "8")]
Seconds = Annotated[float, _ABOVE_ZERO, Written(_NUMBER, "a number of seconds above 0", "300")]
Hours = Annotated[float, _ABOVE_ZERO, Written(_NUMBER, "a number of hours above 0", "2")]
Price = Annotated[float, Field(ge=0, allow_inf_nan=False), Written(_NUMBER, "a number of at least 0", "3")]
GpuForm = Written(r"(GPU|MIG)-[0-9a-fA-F][0-9a-fA-F/-]+", "a GPU as `nvidia-smi -L` names it", "GPU-5fd4f087-86f3")
UserForm = Written(r"[1-9]\d{0,8}:[1-9]\d{0,8}", "uid:gid in numbers, neither of them 0", "1000:1000")
OllamaModelForm = Written(r"[\w.-][\w./-]*(:[\w.-]+)?", "a model as Ollama names it", "qwen3.5:9b")
EndpointModelForm = Written(r"[^\s$]+", "a model as its endpoint names it", "large-1")
FolderForm = Written(_PLACE, "a folder that begins with /, ./, ../ or ~/", "/srv/subject")
KeyFileForm = Written(_PLACE, "a file that begins with /, ./, ../ or ~/", "/srv/llm.key")
AddressForm = Written(r"https?://[^\s$@]+", "an address that begins with http:// or https://", "https://llm.example/v1")
