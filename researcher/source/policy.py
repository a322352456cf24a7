"""Finds actions in a source that no experiment needs: access to score, clock, files, processes, network or seed.

This check helps the proposer and saves trials. It only reads names and follows imports, so it can be evaded. The
trainer's sandbox confines the candidate.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from researcher.source.syntax import outside_functions


class Denied(StrEnum):
    """The reason of a refusal and the alternative, as text for the proposer."""

    SCORE = "the score is taken outside of train.py; improve the model, the optimiser or the schedule"
    CLOCK = "the budget is counted outside of train.py; train until progress() reaches 1"
    VALIDATION = 'train.py is served no validation text; train on make_dataloader(..., "train")'
    FILES = "train.py needs no files; batches come from make_dataloader(), and a line can be printed"
    NETWORK = "a trial has no network; leave it out"
    PROCESS = "a trial is one process and ends with it; leave it out, threads are allowed"
    SEED = "the trainer sets every seed; leave it out"
    HIDDEN = "what it would run cannot be read; write it out as plain Python"
    PACKAGE = "no new packages: train.py has torch, numpy and Python's standard library; write it with those"


# The alternatives in the script of a user's own task. An action without one is no violation there.
_OF_TASKS = {
    Denied.SCORE: "the score is taken outside of the script; improve what the script computes",
    Denied.CLOCK: "the seconds of a trial are counted outside of the script; leave the clock as it is",
    Denied.NETWORK: Denied.NETWORK.value,
    Denied.PROCESS: "a trial ends with its first process; leave it out, threads are allowed",
    Denied.SEED: "the seed comes from outside; use it as the script does now",
    Denied.HIDDEN: Denied.HIDDEN.value,
    Denied.PACKAGE: "no new packages: write it with those that the script imports, or with Python's standard library",
}


@dataclass(frozen=True)
class Violation:
    """One action at one place. `what` is the same text for the same action anywhere."""

    what: str
    why: Denied
    line: int

    @property
    def message(self) -> str:
        """The violation as text for the proposer."""
        return f"line {self.line}: {self.what}: {self.why}"

    @property
    def message_of_task(self) -> str | None:
        """The same in the script of a user's own task; None for an action that is allowed there."""
        why = _OF_TASKS.get(self.why)
        return None if why is None else f"line {self.line}: {self.what}: {why}"


_MODULES = {
    Denied.SCORE: "trainer researcher services inspect.currentframe inspect.stack inspect.trace inspect.getouterframes"
    " inspect.getinnerframes gc.get_objects gc.get_referrers gc.get_referents sys.modules sys.meta_path sys.path_hooks"
    " sys._getframe sys._current_frames sys.settrace sys.setprofile sys.addaudithook importlib.reload"
    " torch.cuda.set_per_process_memory_fraction",
    Denied.FILES: "open io.open io.open_code io.FileIO pickle shelve marshal dbm sqlite3 shutil tempfile mmap ctypes"
    " zipfile tarfile fileinput fcntl logging.FileHandler torch.load torch.save torch.from_file torch.jit.load"
    " torch.jit.save torch.export.load torch.export.save torch.package torch.utils.cpp_extension torch.ops.load_library"
    " numpy.load numpy.save numpy.savez numpy.savez_compressed numpy.loadtxt numpy.savetxt numpy.genfromtxt"
    " numpy.fromfile numpy.memmap numpy.ctypeslib",
    Denied.NETWORK: "socket socketserver ssl urllib http ftplib smtplib poplib imaplib telnetlib nntplib xmlrpc asyncio"
    " select selectors webbrowser requests torch.hub torch.distributed.init_process_group torch.distributed.rpc",
    Denied.PROCESS: "subprocess multiprocessing signal pty posix resource.setrlimit concurrent.futures.process"
    " concurrent.futures.ProcessPoolExecutor torch.multiprocessing torch.distributed.run torch.distributed.launch",
    Denied.SEED: "random.seed numpy.random.seed torch.manual_seed torch.seed torch.set_rng_state"
    " torch.random.manual_seed torch.random.seed torch.random.set_rng_state torch.default_generator"
    " torch.cuda.manual_seed torch.cuda.manual_seed_all torch.cuda.seed torch.cuda.seed_all torch.cuda.set_rng_state",
    Denied.HIDDEN: "exec eval compile __import__ builtins __builtins__ importlib.import_module importlib.machinery"
    " importlib.util.spec_from_file_location runpy imp code codeop",
}
_DENIED = {name: why for why, names in _MODULES.items() for name in names.split()}
_OF_OS = {"environ", "getenv", "path", "cpu_count", "sched_getaffinity", "getpid", "name", "sep", "devnull", "getcwd"}
_ATTRIBUTES = {
    Denied.SCORE: "__globals__ __code__ __closure__ __subclasses__ f_back f_locals f_globals tb_frame gi_frame",
    Denied.FILES: "read_text read_bytes write_text write_bytes unlink tofile symlink_to hardlink_to",
}
_DENIED_ATTRIBUTES = {name: why for why, names in _ATTRIBUTES.items() for name in names.split()}
_FIXED = {
    "evaluate_bpb", "get_token_bytes", "make_dataloader", "progress", "Tokenizer", "TIME_BUDGET", "warm_evaluation",
}  # of prepare  # fmt: skip
_OF_CLOCK = ("progress", "TIME_BUDGET")
_PACKAGES = sys.stdlib_module_names | {"torch", "numpy", "triton", "prepare"}  # triton comes with torch for CUDA
_BUILTINS = {"open", "exec", "eval", "compile", "__import__", "__builtins__", "getattr", "setattr", "vars", "globals"}
_OF_PROCESSES = re.compile(r"os\.(system|popen|fork|exec|spawn|posix_spawn|kill|wait|_exit|abort|set|sched|put|unset)")
_LONGEST_CHAIN = 16  # attributes after a name; the beginning of a longer chain is a node of its own
_CHANGES_ENVIRONMENT = {f"os.environ.{verb}" for verb in ("setdefault", "pop", "update", "__setitem__")}
_PATCHED_TORCH = ("torch", "torch.nn.functional", "torch.Tensor")  # not torch.backends..., torch._dynamo.config...


def violations(tree: ast.Module) -> tuple[Violation, ...]:
    """Return the violations by line. A repeated action on a line counts once."""
    return tuple(sorted(set(_Reader(tree).violations()), key=lambda violation: (violation.line, violation.what)))


class _Reader:
    """Resolves the names of one source and finds its violations."""

    def __init__(self, tree: ast.Module) -> None:
        self._nodes = list(ast.walk(tree))
        self._outermost = list(outside_functions(tree))
        self._stands_for = {name: name for name in _BUILTINS - set(self._bound())}
        for node in self._nodes:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    top = alias.name.partition(".")[0]
                    self._stands_for[alias.asname or top] = alias.name if alias.asname else top
            elif isinstance(node, ast.ImportFrom) and node.module is not None:
                self._stands_for |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}

    def violations(self) -> Iterator[Violation]:
        for node in self._nodes:
            match node:
                case ast.Import(names=names):
                    for alias in names:
                        yield from self._import(alias.name, node.lineno)
                case ast.ImportFrom(module=str() as module, names=names):
                    yield from self._import(module, node.lineno)
                    for alias in names:
                        yield from _use(f"{module}.{alias.name}", node.lineno)
                case ast.Attribute() | ast.Name():
                    yield from self._reference(node)
                case ast.Call():
                    yield from self._call(node)
                case ast.Subscript(ctx=ast.Store() | ast.Del()):
                    yield from self._stored_item(node)
        yield from self._rebound()

    def _bound(self) -> Iterator[str]:
        for node in self._nodes:
            match node:
                case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                    yield name
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                    yield name

    def _dotted(self, node: ast.AST) -> str | None:
        """Return the full dotted name of an expression that begins with an imported or built-in name, or None.

        Attributes may also be read with getattr and a text. A chain that is longer than any denied name has no full
        name.
        """
        attributes: list[str] = []
        while len(attributes) <= _LONGEST_CHAIN:
            match node:
                case ast.Name(id=name):
                    first = self._stands_for.get(name)
                    return None if first is None else ".".join([first, *reversed(attributes)])
                case ast.Attribute(value=value, attr=attr):
                    node = value
                case ast.Call(func=ast.Name(id="getattr"), args=[value, ast.Constant(value=str() as attr), *_]):
                    node = value
                case _:
                    return None
            attributes.append(attr)
        return None

    @staticmethod
    def _import(module: str, line: int) -> Iterator[Violation]:
        top = module.partition(".")[0]
        if _denied(module) is not None:
            yield from _use(module, line)
        elif top not in _PACKAGES:
            yield Violation(f"`{top}` is not installed with the trainer", Denied.PACKAGE, line)
        elif top.startswith("_") and top != "__future__":
            yield Violation(f"`{top}`, private to Python", Denied.HIDDEN, line)

    def _reference(self, node: ast.Attribute | ast.Name) -> Iterator[Violation]:
        name = self._dotted(node)
        if isinstance(node.ctx, ast.Load):
            if name is not None:
                yield from _use(name, node.lineno)
            if isinstance(node, ast.Attribute) and node.attr in _DENIED_ATTRIBUTES:
                yield Violation(f"`.{node.attr}`", _DENIED_ATTRIBUTES[node.attr], node.lineno)
        elif isinstance(node, ast.Attribute) and (module := self._dotted(node.value)) is not None:
            yield from _patched(module, node.attr, node.lineno)

    def _call(self, node: ast.Call) -> Iterator[Violation]:
        name = self._dotted(node.func)
        values = [*node.args, *(keyword.value for keyword in node.keywords)]
        texts = [value.value for value in values if isinstance(value, ast.Constant) and isinstance(value.value, str)]
        if any(keyword.arg == "split" and _is_text(keyword.value, "val") for keyword in node.keywords) or (
            name == "prepare.make_dataloader" and "val" in texts
        ):
            yield Violation('split="val"', Denied.VALIDATION, node.lineno)
        if name in ("getattr", "setattr", "vars") and node.args and (module := self._dotted(node.args[0])) is not None:
            yield from self._by_text(name, module, node)
        if name in _CHANGES_ENVIRONMENT and texts and texts[0].startswith("OVERNIGHT_"):
            yield Violation(f"`{name}` of {texts[0]}", Denied.SCORE, node.lineno)

    def _by_text(self, name: str, module: str, node: ast.Call) -> Iterator[Violation]:
        match node.args[1:]:
            case [ast.Constant(value=str() as attr), *_]:
                yield from (_patched if name == "setattr" else _use_of)(module, attr, node.lineno)
            case _ if module.partition(".")[0] not in ("torch", "numpy", "math"):  # there a knob may name an attribute
                yield Violation(f"`{name}` of `{module}`", Denied.HIDDEN, node.lineno)

    def _stored_item(self, node: ast.Subscript) -> Iterator[Violation]:
        match node.value:
            case ast.Call(func=func) if self._dotted(func) in ("globals", "vars"):
                yield Violation("assignment to a name by its text", Denied.HIDDEN, node.lineno)
        if self._dotted(node.value) == "os.environ":
            match node.slice:
                case ast.Constant(value=str() as key) if key.startswith("OVERNIGHT_"):
                    yield Violation(f"assignment to the environment's {key}", Denied.SCORE, node.lineno)

    def _rebound(self) -> Iterator[Violation]:
        """Yield violations that replace the names of `prepare`, or the budget."""
        fixed = {name for name, stands_for in self._stands_for.items() if stands_for.removeprefix("prepare.") in _FIXED}
        for node in self._outermost:
            match node:
                case (
                    ast.Name(id=name, ctx=ast.Store() | ast.Del())
                    | ast.FunctionDef(name=name)
                    | ast.ClassDef(name=name)
                ):
                    if name in fixed or name == "TIME_BUDGET":
                        of_clock = self._stands_for.get(name, name).endswith(_OF_CLOCK)
                        why = Denied.CLOCK if of_clock else Denied.SCORE
                        yield Violation(f"another `{name}` in the place of prepare's", why, node.lineno)


def _use(name: str, line: int) -> Iterator[Violation]:
    denied = _denied(name)
    if denied is not None:
        yield Violation(f"`{denied[0]}`", denied[1], line)


def _use_of(module: str, attr: str, line: int) -> Iterator[Violation]:
    yield from _use(f"{module}.{attr}", line)


def _denied(name: str) -> tuple[str, Denied] | None:
    """Return the denied part of `name`, which is the name or a parent of it, with the reason; None if there is none."""
    parts = name.split(".", _LONGEST_CHAIN)
    for end in range(1, len(parts) + 1):
        if (why := _DENIED.get(begin := ".".join(parts[:end]))) is not None:
            return begin, why
    match parts:
        case ["os", verb, *_] if verb not in _OF_OS:
            return f"os.{verb}", Denied.PROCESS if _OF_PROCESSES.match(name) else Denied.FILES
        case ["prepare", attr, *_] if attr.startswith("_"):
            return f"prepare.{attr}", Denied.SCORE
    return None


def _patched(module: str, attr: str, line: int) -> Iterator[Violation]:
    """Yield a violation for an assignment to an attribute of a standard module, of prepare, or of torch's functions."""
    top = module.partition(".")[0]
    if module in _PATCHED_TORCH or (top in _PACKAGES and top not in ("torch", "numpy", "triton", "warnings")):
        why = Denied.CLOCK if top == "time" or attr in _OF_CLOCK else Denied.SCORE
        yield Violation(f"assignment to `{module}.{attr}`", why, line)


def _is_text(node: ast.expr, text: str) -> bool:
    return isinstance(node, ast.Constant) and node.value == text
