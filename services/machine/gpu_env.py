"""gpu.env as a table: its keys, who reads each, what a value may be, and how a file of it is read and written.

Pure. Finds fault with what compose would read otherwise, or nobody would: a `$` anywhere but in COMPOSE_PROFILES, a key
twice, a line that is no assignment, a key of compose in a file that compose does not see.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum

from dotenv.parser import parse_stream

from researcher.decision.rules import CrashReset
from researcher.optimizer.optimizer import Sampler
from researcher.proposers.schedule import Mix
from researcher.settings import ESCALATION_NEEDS
from services.machine.gpus import AUTO
from trainer.jobs import PROFILES

GPU_ENV = "gpu.env"
LOCAL = "gpu.local.env"
FOLLOWS = "${LLM}"


class Reader(StrEnum):
    """Who reads a key. Compose does not see gpu.local.env."""

    COMPOSE = "compose"
    CONTAINERS = "containers"


@dataclass(frozen=True)
class Key:
    """One setting. `wanted` and `example` are words for an error; an `optional` one may be empty: the default."""

    name: str
    reader: Reader
    accepts: Callable[[str], bool]
    wanted: str
    example: str
    optional: bool = True


@dataclass(frozen=True)
class Entry:
    """An assignment in a file. `value` is as written, its quotes removed."""

    name: str
    value: str
    line: int


@dataclass(frozen=True)
class Entries:
    """What a file assigns, in its order, and the numbers of the lines that assign nothing and are no comment."""

    file: str
    entries: tuple[Entry, ...]
    broken: tuple[int, ...] = ()

    def values(self) -> dict[str, str]:
        """The last assignment of each name."""
        return {entry.name: entry.value for entry in self.entries}


def _matches(pattern: str) -> Callable[[str], bool]:
    return lambda value: re.fullmatch(pattern, value, re.ASCII) is not None


def _whole(least: int) -> Callable[[str], bool]:
    return lambda value: _matches(r"\d{1,9}")(value) and int(value) >= least


def _number(value: str) -> bool:
    return _matches(r"\d{1,9}(\.\d{1,9})?")(value)


def _above_zero(value: str) -> bool:
    return _number(value) and float(value) > 0


def _any_of(names: list[str]) -> tuple[Callable[[str], bool], str, str]:
    return names.__contains__, "one of " + ", ".join(names), names[0]


_COUNT = (_whole(1), "a whole number of at least 1", "100")
_MIB = (_whole(1), "a whole number of MiB", "12288")
_SHARE = (_matches(r"0(\.\d{1,9})?|1(\.0{1,9})?"), "a share from 0 to 1", "0.1")
_LIMIT = (_above_zero, "a number above 0", "8")
# Anything else would be the name of a volume.
_IS_PLACE = _matches(r"(/|\./|\.\./|~/)[^:$\n]*")
_ADDRESS = (_matches(r"https?://[^\s$@]+"), "an address that begins with http:// or https://", "https://llm.example/v1")
_COMPOSE, _CONTAINERS = Reader.COMPOSE, Reader.CONTAINERS

KEYS = {
    key.name: key
    for key in (
        Key(
            "GPU_UUID",
            _COMPOSE,
            _matches(r"(GPU|MIG)-[0-9a-fA-F][0-9a-fA-F/-]+"),
            "a card as `nvidia-smi -L` names it",
            "GPU-5fd4f087-86f3-7a43-b711-4771313afc50",
        ),
        Key("SUBJECT_DIR", _COMPOSE, _IS_PLACE, "a folder that begins with /, ./, ../ or ~/", "/srv/subject"),
        Key(
            "RESEARCHER_USER",
            _COMPOSE,
            _matches(r"[1-9]\d{0,8}:[1-9]\d{0,8}"),
            "uid:gid in numbers, neither of them 0",
            "1000:1000",
            optional=False,
        ),
        Key("LLM", _COMPOSE, *_any_of(["ollama", "none", "openai"]), optional=False),
        Key("COMPOSE_PROFILES", _COMPOSE, FOLLOWS.__eq__, FOLLOWS, FOLLOWS, optional=False),
        Key("EXPERIMENTS", _COMPOSE, *_COUNT),
        Key("HOURS", _COMPOSE, *_LIMIT),
        Key("MAX_COST", _COMPOSE, *_LIMIT),
        Key("OPENAI_API_KEY_FILE", _COMPOSE, _IS_PLACE, "a file that begins with /, ./, ../ or ~/", "/srv/llm.key"),
        Key("ESCALATE_BASE_URL", _COMPOSE, *_ADDRESS),
        Key("ESCALATE_API_KEY_FILE", _COMPOSE, _IS_PLACE, "a file that begins with /, ./, ../ or ~/", "/srv/llm.key"),
        Key("PROFILE", _CONTAINERS, *_any_of([AUTO, *PROFILES]), optional=False),
        Key("BUDGET", _CONTAINERS, _above_zero, "a number of seconds above 0", "300"),
        Key("PROPOSER", _CONTAINERS, *_any_of([mix.value for mix in Mix]), optional=False),
        Key("EDIT_SHARE", _CONTAINERS, *_SHARE),
        Key("ADVICE_SHARE", _CONTAINERS, *_SHARE),
        Key("OPTIMIZER", _CONTAINERS, *_any_of(sorted(Sampler))),
        Key("CRASH_RESET", _CONTAINERS, *_any_of([CrashReset.BASELINE.value, CrashReset.CONFIRMED.value])),
        Key("CLAIM_HOURS", _CONTAINERS, _above_zero, "a number of hours above 0", "2"),
        Key(
            "MODEL",
            _CONTAINERS,
            _matches(r"[\w.-][\w./-]*(:[\w.-]+)?"),
            "a model as Ollama names it",
            "qwen3.5:9b",
            optional=False,
        ),
        Key("NUM_CTX", _CONTAINERS, _whole(2048), "a whole number of tokens, at least 2048", "16384"),
        Key("THINK", _CONTAINERS, *_any_of(["on", "off", "low", "medium", "high"])),
        Key("TRAINER_CAP_MIB", _CONTAINERS, *_MIB),
        Key("LLM_RESERVE_MIB", _CONTAINERS, *_MIB),
        Key("OPENAI_BASE_URL", _CONTAINERS, *_ADDRESS),
        Key("OPENAI_PRICE_IN", _CONTAINERS, _number, "a number", "3"),
        Key("OPENAI_PRICE_OUT", _CONTAINERS, _number, "a number", "15"),
        Key("PRICE_PER_HOUR", _CONTAINERS, _number, "a number", "2.49"),
        Key("ESCALATE_MODEL", _CONTAINERS, _matches(r"[^\s$]+"), "a model as its endpoint names it", "large-1"),
        Key("ESCALATE_PRICE_IN", _CONTAINERS, *_LIMIT),
        Key("ESCALATE_PRICE_OUT", _CONTAINERS, *_LIMIT),
        Key("ESCALATE_MAX_COST", _CONTAINERS, *_LIMIT),
    )
}


def read(text: str, file: str) -> Entries:
    """What the text of a file assigns."""
    entries: list[Entry] = []
    broken: list[int] = []
    for binding in parse_stream(io.StringIO(text)):
        words = binding.original.string
        line = binding.original.line + words[: len(words) - len(words.lstrip())].count("\n")
        if binding.error or (binding.key is not None and binding.value is None):
            broken.append(line)
        elif binding.key is not None:
            entries.append(Entry(binding.key, binding.value or "", line))
    return Entries(file, tuple(entries), tuple(broken))


def faults(gpu_env: Entries, others: tuple[Entries, ...], shell: Mapping[str, str]) -> list[str]:
    """Everything wrong with the files, each in one sentence with the next step. `others` are read after gpu.env."""
    found = [fault for entries in (gpu_env, *others) for fault in _faults_of(entries)]
    for name in sorted(set(KEYS) - set(gpu_env.values())):
        if not KEYS[name].optional:
            found.append(f"{gpu_env.file} does not set {name}; add the line {name}={KEYS[name].example}")
    for entries in others:
        for entry in entries.entries:
            if entry.name in KEYS and KEYS[entry.name].reader is Reader.COMPOSE:
                found.append(
                    f"{_place(entries, entry)}: compose would not see {entry.name} there; set it in {gpu_env.file}"
                )
    for name, value in _of_compose(shell).items():
        if name != "COMPOSE_PROFILES" and not _is_good(KEYS[name], value):
            found.append(f"{name}={value} in the shell {_instead(KEYS[name])}, or unset it")
    return found or _faults_between(settings(gpu_env, others, shell))


def settings(gpu_env: Entries, others: tuple[Entries, ...], shell: Mapping[str, str]) -> dict[str, str]:
    """What holds in the end; what is empty is left out. The shell overrides what compose reads, and nothing else."""
    merged: dict[str, str] = {}
    for values in (gpu_env.values(), *(entries.values() for entries in others), _of_compose(shell)):
        merged |= {name: value for name, value in values.items() if name in KEYS}
    if merged.get("COMPOSE_PROFILES") == FOLLOWS:
        merged["COMPOSE_PROFILES"] = merged.get("LLM", "")
    return {name: value for name, value in merged.items() if value}


def render_local(values: Mapping[str, str], card: str, split: str) -> str:
    """The text of gpu.local.env: what was detected for a card, with the arithmetic of its memory as a comment."""
    about = [
        f"Written once by scripts/up, for {card}. It is yours now and never written again; delete it to have it anew.",
        "Containers read it after gpu.env. What compose itself reads belongs in gpu.env. GPU memory in MiB:",
        split,
    ]
    lines = ["# " + " ".join(line.split()) for line in about] + [f"{name}={value}" for name, value in values.items()]
    return "\n".join(lines) + "\n"


def _faults_of(entries: Entries) -> Iterator[str]:
    for line in entries.broken:
        yield f"line {line} of {entries.file} is neither KEY=value nor a comment; mend or delete it"
    seen: dict[str, int] = {}
    for entry in entries.entries:
        key = KEYS.get(entry.name)
        if entry.name in seen:
            yield f"{_place(entries, entry)}: {entry.name} stands in line {seen[entry.name]} too; delete one of them"
        elif key is None:
            near = get_close_matches(entry.name.upper(), KEYS, n=1)
            instead = f"did you mean {near[0]}?" if near else f"delete it; known are {', '.join(KEYS)}"
            yield f"{_place(entries, entry)}: {entry.name} is not a setting; {instead}"
        elif not _is_good(key, entry.value):
            yield f"{_place(entries, entry)}: {entry.name}={entry.value} {_instead(key)}"
        seen.setdefault(entry.name, entry.line)


def _is_good(key: Key, value: str) -> bool:
    return key.accepts(value) if value else key.optional


def _instead(key: Key) -> str:
    return f"is not {key.wanted}; write for example {key.name}={key.example}"


def _place(entries: Entries, entry: Entry) -> str:
    return f"line {entry.line} of {entries.file}"


def _of_compose(shell: Mapping[str, str]) -> dict[str, str]:
    return {name: shell[name] for name, key in KEYS.items() if key.reader is Reader.COMPOSE and name in shell}


def _faults_between(held: dict[str, str]) -> list[str]:
    found = []
    if held.get("COMPOSE_PROFILES") != held["LLM"]:
        found.append(f"COMPOSE_PROFILES in the shell hides the one in {GPU_ENV}, which follows LLM; unset it")
    if "MAX_COST" in held and "PRICE_PER_HOUR" not in held:
        found.append("MAX_COST needs to know what an hour costs; set PRICE_PER_HOUR as well")
    lacking = [name for name in ESCALATION_NEEDS if name not in held]
    if "ESCALATE_BASE_URL" in held and lacking:
        found.append(f"ESCALATE_BASE_URL needs {', '.join(lacking)} as well; set them, or leave it empty")
    if held["LLM"] == "openai" and "OPENAI_BASE_URL" not in held:
        found.append("LLM=openai needs the address of an endpoint; set OPENAI_BASE_URL as well")
    if held["LLM"] == "none" and held["PROPOSER"] == "llm":
        found.append("PROPOSER=llm needs an LLM and LLM is none; set PROPOSER=optimizer, or LLM=ollama")
    return found
