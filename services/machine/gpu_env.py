"""gpu.env: reads and writes files of settings, and finds the faults of an edited one.

Pure. The table in `researcher.config.settings` holds the keys and their values. These are faults, because compose would
read them in another way, or no program would: a `$` in a value, a key twice, a line that is no assignment, a key of
compose in a file that compose does not read.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches

from dotenv.parser import parse_stream

from researcher.config.rules import conflicts
from researcher.config.setting import Reader, Setting, SettingFault, Source
from researcher.config.settings import TABLE

GPU_ENV = "gpu.env"
DOT_ENV = ".env"
LOCAL = "gpu.local.env"
KEYS = {key: row for key, row in TABLE.items() if row.source is Source.GPU_ENV}


@dataclass(frozen=True)
class Entry:
    """An assignment in a file. `value` is as written, without its quotes."""

    name: str
    value: str
    line: int


@dataclass(frozen=True)
class Entries:
    """The assignments of a file in order, and the numbers of the lines that are neither assignments nor comments."""

    file: str
    entries: tuple[Entry, ...]
    broken: tuple[int, ...] = ()

    def values(self) -> dict[str, str]:
        """Return the last assignment of each name."""
        return {entry.name: entry.value for entry in self.entries}


def read(text: str, file: str) -> Entries:
    """Parse the text of a file."""
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


def faults(gpu_env: Entries, others: tuple[Entries, ...], shell: Mapping[str, str]) -> list[SettingFault]:
    """Return every fault of the files. `others` are read after gpu.env."""
    found = [fault for entries in (gpu_env, *others) for fault in _faults_of(entries)]
    for name, row in KEYS.items():
        if not row.is_optional and name not in gpu_env.values():
            found.append(
                SettingFault(name, f"{gpu_env.file} does not set {name}", f"add the line {name}={row.shipped}")
            )
    for entries in others:
        for entry in entries.entries:
            if entry.name in KEYS and _is_for_compose(KEYS[entry.name]):
                unseen = f"{_place(entries, entry)}: compose would not see {entry.name} there"
                found.append(SettingFault(entry.name, unseen, f"set it in {gpu_env.file}"))
    for name, value in compose_settings(shell).items():
        if name != "COMPOSE_PROFILES" and (fault := KEYS[name].fault_of(value)):
            found.append(SettingFault(name, f"in the shell: {fault.found}", f"{fault.next_step}, or unset it"))
    return found or _faults_between(settings(gpu_env, others, shell))


def settings(gpu_env: Entries, others: tuple[Entries, ...], shell: Mapping[str, str]) -> dict[str, str]:
    """Return the settings in force, without empty ones. The shell overrides the keys of compose, and no others."""
    merged: dict[str, str] = {}
    for values in (gpu_env.values(), *(entries.values() for entries in others), compose_settings(shell)):
        merged |= {name: value for name, value in values.items() if name in KEYS}
    if merged.get("COMPOSE_PROFILES") == KEYS["COMPOSE_PROFILES"].shipped:
        merged["COMPOSE_PROFILES"] = merged.get("LLM", "")
    return {name: value for name, value in merged.items() if value}


def render_local(values: Mapping[str, str], gpu: str, split: str) -> str:
    """Return the text of gpu.local.env: the values detected for a GPU, with the arithmetic of its memory as a
    comment."""
    about = [
        f"Written once by scripts/up, for {gpu}. It is yours now and never written again; delete it to have it again.",
        "Containers read it after gpu.env. What compose itself reads belongs in gpu.env. GPU memory in MiB:",
        split,
    ]
    lines = ["# " + " ".join(line.split()) for line in about] + [f"{name}={value}" for name, value in values.items()]
    return "\n".join(lines) + "\n"


def _faults_of(entries: Entries) -> Iterator[SettingFault]:
    for line in entries.broken:
        found = f"line {line} of {entries.file} is neither KEY=value nor a comment"
        yield SettingFault("", found, "fix or delete it")
    seen: dict[str, int] = {}
    for entry in entries.entries:
        name, place = entry.name, _place(entries, entry)
        if name in seen:
            yield SettingFault(name, f"{place}: {name} stands in line {seen[name]} too", "delete one of them")
        elif name not in KEYS:
            near = get_close_matches(name.upper(), KEYS, n=1)
            next_step = f"did you mean {near[0]}?" if near else f"delete it; known are {', '.join(KEYS)}"
            yield SettingFault(name, f"{place}: {name} is not a setting", next_step)
        elif (fault := KEYS[name].fault_of(entry.value)) is not None:
            yield replace(fault, found=f"{place}: {fault.found}")
        seen.setdefault(name, entry.line)


def _place(entries: Entries, entry: Entry) -> str:
    return f"line {entry.line} of {entries.file}"


def _is_for_compose(row: Setting) -> bool:
    return Reader.COMPOSE in row.readers


def compose_settings(shell: Mapping[str, str]) -> dict[str, str]:
    """Return the settings in `shell` that compose reads, where they outweigh gpu.env."""
    return {name: shell[name] for name, row in KEYS.items() if _is_for_compose(row) and name in shell}


def _faults_between(held: dict[str, str]) -> list[SettingFault]:
    found = list(conflicts(held))
    if held.get("COMPOSE_PROFILES") != held["LLM"]:
        hidden = f"COMPOSE_PROFILES in the shell hides the one in {GPU_ENV}, which follows LLM"
        found.append(SettingFault("COMPOSE_PROFILES", hidden, "unset it"))
    return found
