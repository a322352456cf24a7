"""The parts of a row in the table of settings: the type with its range, the readers, the source, and faults.

The rows are fields of the classes in `researcher.config.settings`; `rows_of` reads them. Text in a file and values of
the environment are validated with the same type, so each range is defined once.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, Flag, StrEnum, auto
from functools import cached_property
from itertools import pairwise
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from pydantic import AfterValidator, BaseModel, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from researcher.errors import BadValue
from researcher.repository.backup_place import PLACE

_T = TypeVar("_T")


class Reader(Flag):
    """The processes that read a key.

    Compose reads gpu.env and the calling shell's environment, but not gpu.local.env.
    """

    RESEARCHER = auto()
    TRAINER = auto()
    SERVICES = auto()
    COMPOSE = auto()


class Source(StrEnum):
    """The place where a key is set: gpu.env, the environment in local mode only, or the program that starts it."""

    GPU_ENV = "gpu.env"
    ENVIRONMENT = "environment"
    STARTER = "starter"


@dataclass(frozen=True)
class Shipped:
    """The value of a key in the committed gpu.env. Such a key must have a value; other keys may be empty."""

    value: str


@dataclass(frozen=True)
class Written:
    """The form of a value in gpu.env. `wanted` and `example` are texts for an error message."""

    pattern: str
    wanted: str
    example: str


def one_of(names: Iterable[str]) -> Written:
    """Return the form of a value that is one of `names`; the first name is the example."""
    words = list(names)
    return Written("|".join(map(re.escape, words)), "one of " + ", ".join(words), words[0])


@dataclass(frozen=True)
class SettingFault:
    """A fault of a setting, and the next step to correct it."""

    key: str
    found: str
    next_step: str

    def __str__(self) -> str:
        return f"{self.found}; {self.next_step}"


@dataclass(frozen=True)
class Setting:
    """A row of the table. `kind` is the value's type with its annotations."""

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
        """Whether the value may be empty in gpu.env."""
        return not self.shipped

    def fault_of(self, text: str) -> SettingFault | None:
        """Return the fault of a text in gpu.env, or None."""
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
        """Turn a validation error into a fault. The value is not quoted if it may contain a key."""
        if isinstance(refused := error.get("ctx", {}).get("error"), BadValue):
            found = refused.found if refused.found.startswith(self.key) else f"{self.key}: {refused.found}"
            return SettingFault(self.key, found, refused.next_step)
        if error["type"] == "missing":
            return SettingFault(self.key, f"{self.key} is not set", f"it has to be: {self.summary}")
        if self.written is None:
            return SettingFault(self.key, f"{self.key}: {error['msg']}", f"fix it: {self.summary}")
        return self.refusal(error["input"])

    def refusal(self, value: object) -> SettingFault:
        """Return the fault of a value with the wrong form."""
        assert self.written is not None, f"{self.key} stands in gpu.env and has no form"
        found = f"{self.key}={value} is not {self.written.wanted}"
        return SettingFault(self.key, found, f"write for example {self.key}={self.written.example}")

    @cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        return TypeAdapter(self.kind)


def rows_of(*tables: type[BaseModel], written: str) -> Iterable[Setting]:
    """Yield the rows of the tables' fields. `written` is the source text of the module that defines them."""
    helps = dict(_helps(written))  # pydantic finds them too, but ten times slower
    for table in tables:
        hints = get_type_hints(table, include_extras=True)
        for name, field in table.model_fields.items():
            yield _row(name, hints[name], field.default, helps[name])


def _helps(module: str) -> Iterable[tuple[str, str]]:
    """Yield the name of each field of a class with the string below it."""
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
    """Return the annotated form, or the form of an enumeration's values."""
    parts = list(_parts(hint))
    words = [part for part in parts if isinstance(part, type) and issubclass(part, Enum)]
    return next((part for part in parts if isinstance(part, Written)), one_of(words[0]) if words else None)


def _parts(hint: Any) -> Iterable[Any]:
    """Yield a type, its annotations, and the same of all types inside it."""
    yield hint
    if get_origin(hint) is Annotated:
        yield from hint.__metadata__
    for part in get_args(hint):
        yield from _parts(part)


def checked_tag(text: str) -> str:
    """Return a name that can be part of a branch, of a trial's id and of a folder. Raises BadValue for another text."""
    if re.fullmatch(_TAG, text) is None:
        raise BadValue(f"{text!r} is no name for a run", "take at most 100 of the letters a to z, digits, - and _")
    return text


_TAG = r"[A-Za-z0-9_-]{1,100}"
_WHOLE = r"\d{1,9}"
_NUMBER = r"\d{1,9}(\.\d{1,9})?"
_PLACE = r"(/|\./|\.\./|~/)[^:$\n]*"  # Compose takes any other text for a volume's name
_ABOVE_ZERO = Field(gt=0, allow_inf_nan=False)

Count = Annotated[int, Field(ge=1), Written(_WHOLE, "a whole number of at least 1", "100")]
Port = Annotated[int, Field(ge=0, le=65535), Written(r"\d{1,5}", "a port from 0 to 65535", "8643")]
Mib = Annotated[int, Field(gt=0), Written(_WHOLE, "a whole number of MiB", "12288")]
ContextTokens = Annotated[int, Field(ge=2048), Written(_WHOLE, "a whole number of tokens, at least 2048", "16384")]
AnswerTokens = Annotated[int, Field(ge=256), Written(_WHOLE, "a whole number of tokens, at least 256", "4096")]
Share = Annotated[float, Field(ge=0, le=1), Written(_NUMBER, "a share from 0 to 1", "0.1")]
Limit = Annotated[float, _ABOVE_ZERO, Written(_NUMBER, "a number above 0", "8")]
Seconds = Annotated[float, _ABOVE_ZERO, Written(_NUMBER, "a number of seconds above 0", "300")]
Hours = Annotated[float, _ABOVE_ZERO, Written(_NUMBER, "a number of hours above 0", "2")]
Moment = Annotated[
    datetime,
    AfterValidator(lambda moment: moment.astimezone()),
    Written(
        r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?([+-]\d\d:\d\d|Z)?",
        "a date with a time, in local time or with a zone",
        "2027-01-31T07:00+01:00",
    ),
]
Price = Annotated[float, Field(ge=0, allow_inf_nan=False), Written(_NUMBER, "a number of at least 0", "3")]
GpuForm = Written(r"(GPU|MIG)-[0-9a-fA-F][0-9a-fA-F/-]+", "a GPU as `nvidia-smi -L` names it", "GPU-5fd4f087-86f3")
UserForm = Written(r"[1-9]\d{0,8}:[1-9]\d{0,8}", "uid:gid in numbers, neither of them 0", "1000:1000")
OllamaModelForm = Written(r"[\w.-][\w./-]*(:[\w.-]+)?", "a model as Ollama names it", "qwen3.5:9b")
EndpointModelForm = Written(r"[^\s$]+", "a model as its endpoint names it", "large-1")
FolderForm = Written(_PLACE, "a folder that begins with /, ./, ../ or ~/", "/srv/subject")
SamePathForm = Written(r"/[^:$\n]*", "an absolute folder, which begins with /", "/srv/cache")
PlaceForm = Written(PLACE, "a folder that begins with /, or rclone:REMOTE:PATH", "/mnt/runs")
PackagesForm = Written(
    r"[\w.-]+(\[[\w,-]+\])?([=<>~]=[\w.]+)?( [\w.-]+(\[[\w,-]+\])?([=<>~]=[\w.]+)?)*",
    "names of packages as pip takes them, separated by spaces",
    "kernels rustbpe tiktoken",
)
KeyFileForm = Written(_PLACE, "a file that begins with /, ./, ../ or ~/", "/srv/llm.key")
AddressForm = Written(r"https?://[^\s$@]+", "an address that begins with http:// or https://", "https://llm.example/v1")


def moment_of(text: str, now: datetime) -> datetime:
    """Return the moment that a user names: a time of the day such as 07:00, which is the next one after `now`, or a
    date with a time. Raises ValueError for other text and for a moment that has passed."""
    try:
        if (clock := re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d)", text.strip())) is not None:
            today = now.astimezone().replace(hour=int(clock[1]), minute=int(clock[2]), second=0, microsecond=0)
            return today if today > now else today + timedelta(days=1)
        moment = datetime.fromisoformat(text.strip()).astimezone()
    except ValueError:
        raise ValueError(f"{text!r} is no time; write for example 07:00, or 2027-01-31T07:00") from None
    if moment <= now:
        raise ValueError(f"{text} has passed; write for example 07:00 for the next morning")
    return moment
