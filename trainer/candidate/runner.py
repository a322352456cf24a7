"""The trusted start in a candidate's process: it sets seed, clock and `prepare`, then runs train.py unedited.

Promises: train.py runs by its path as `__main__`; its tracebacks show its own lines; the process ends with the exit
code that python would give. Does not cover a script that undoes these settings in its process; the trainer uses nothing
but logits from this process.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from trainer.candidate.budget_clock import BudgetClock
from trainer.candidate.logits_server import LogitsServer, held_names, named, unwrapped
from trainer.candidate.preload import preload
from trainer.candidate.protocol import Channel, ChannelMessage, Layout, MessageType

CONTEXT_MIB = 600  # CUDA's context, which torch does not count


@dataclass(frozen=True)
class RunnerOrders:
    """The runner's argument, as JSON. The descriptors are inherited.

    For a replica, `replica_of` is `name|precision` of the model whose weights are in `weights_fd`. For a candidate that
    trains it is None.
    """

    control_fd: int
    inputs_fd: int
    logits_fd: int
    weights_fd: int
    replica_of: str | None
    seed: int
    clock: str
    amount: float
    warmup_steps: int
    warmup_cap_s: float
    free_setup: float
    setup_clock: str
    overrun: float
    vram_mib: int | None
    rows: int
    context: int
    vocab: int

    @property
    def layout(self) -> Layout:
        """The shape of the shared buffers."""
        return Layout(self.rows, self.context, self.vocab)


def main() -> None:
    """Run train.py in the current folder as candidate or replica, and exit with the code that python would give."""
    orders = RunnerOrders(**json.loads(sys.argv[2]))
    sys.path[0] = os.getcwd()
    channel = Channel.from_fd(orders.control_fd)
    channel.send(ChannelMessage(MessageType.STARTED))
    from torch.optim.optimizer import register_optimizer_step_post_hook  # noqa: PLC0415 - the trainer times this

    if orders.vram_mib is not None and (reason := _why_no_gpu()) is not None:
        channel.send(ChannelMessage(MessageType.NO_GPU, text=reason))
        sys.exit(reason)
    facts = _device_facts(orders.vram_mib)
    preload(Path("train.py").read_bytes(), Path.cwd(), has_gpu=bool(facts.x))
    impose_seed(orders.seed)
    channel.send(_calibrated(facts))
    budget_clock = BudgetClock(
        orders.clock,
        orders.amount,
        orders.warmup_steps,
        orders.warmup_cap_s,
        channel,
        free_setup=orders.free_setup,
        setup_clock=orders.setup_clock,
        overrun=orders.overrun,
    )
    register_optimizer_step_post_hook(budget_clock.optimizer_stepped)
    server = LogitsServer(channel, orders.layout, orders.inputs_fd, orders.logits_fd, orders.weights_fd, budget_clock)
    run = _run if orders.replica_of is None else _run_replica
    code = run_guarded(lambda: run(orders, server, budget_clock))
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def impose_seed(seed: int) -> None:
    """Seed all generators, and make the script's own calls of seed functions set the same seed."""
    import random  # noqa: PLC0415

    import numpy as np  # noqa: PLC0415
    import torch  # noqa: PLC0415

    narrow = seed % 2**32
    for owner, name, ours in (
        (random, "seed", seed),
        (np.random, "seed", narrow),
        (torch, "manual_seed", seed),
        (torch.random, "manual_seed", seed),
        (torch.cuda, "manual_seed", seed),
        (torch.cuda, "manual_seed_all", seed),
    ):
        imposed = _with_seed(getattr(owner, name), ours)
        imposed()
        setattr(owner, name, imposed)


def run_guarded(work: Callable[[], None]) -> int:
    """Run `work`, print an exception as python would, and return the exit code."""
    try:
        work()
    except SystemExit as leaving:
        if leaving.code is None or isinstance(leaving.code, int):
            return leaving.code or 0
        print(leaving.code, file=sys.stderr)
        return 1
    except BaseException as error:  # noqa: BLE001 - the outermost frame of this process; python would print it too
        print("".join(_without_ours(error)), file=sys.stderr, end="")
        return 1
    return 0


class _FirstBatch(BaseException):
    """Raised at the replica's first batch. It is a BaseException so that the script does not catch it by accident."""


def _run_replica(orders: RunnerOrders, server: LogitsServer, budget_clock: BudgetClock) -> None:
    """Run the script up to its first batch, load the candidate's weights, and answer questions."""
    import torch  # noqa: PLC0415

    assert orders.replica_of is not None
    try:
        _run(orders, server, budget_clock)
    except _FirstBatch as end:
        held = held_names(frame for frame, _ in traceback.walk_tb(end.__traceback__))
    else:
        raise SystemExit("the replica took no batch from make_dataloader")
    name, _, precision = orders.replica_of.partition("|")
    model = named(name, held)
    if not isinstance(unwrapped(model), torch.nn.Module):
        raise SystemExit(f"before its first batch the script has no torch module named {name}")
    with open(os.dup(orders.weights_fd), "rb") as file:
        file.seek(0)
        unwrapped(model).load_state_dict(torch.load(file, weights_only=True))
    device = next(iter(unwrapped(model).parameters()), torch.zeros(0)).device.type
    budget_clock.batch_taken(0)
    budget_clock.end_warmup()
    with torch.autocast(device, getattr(torch, precision)) if precision else contextlib.nullcontext():
        server.evaluate_bpb(model)


def _run(orders: RunnerOrders, server: LogitsServer, budget_clock: BudgetClock) -> None:
    def put_ours(prepare: Any) -> None:
        prepare.evaluate_bpb = server.evaluate_bpb
        prepare.warm_evaluation = server.warm
        prepare.progress = budget_clock.progress
        prepare.make_dataloader = _marking(prepare.make_dataloader, budget_clock, orders)
        if orders.clock != "steps":
            prepare.TIME_BUDGET = orders.amount

    run_script(put_ours, ModuleType("__main__"))


def run_script(put_ours: Callable[[ModuleType], None], script: ModuleType) -> None:
    """Run the train.py of this folder in the namespace `script`, after `put_ours` has changed its prepare.

    Both are compiled from their text, as validated and shown. From bytes, Python would obey an encoding that a comment
    declares.
    """
    folder = Path.cwd()
    if (folder / "prepare.py").exists():
        put_ours(_load_prepare(folder / "prepare.py"))
    path = folder / "train.py"
    sys.argv = [str(path)]
    script.__file__ = str(path)
    sys.modules["__main__"] = script
    exec(compiled(path), script.__dict__)


def compiled(path: Path) -> CodeType:
    """Compile a file as UTF-8, whatever encoding it declares, without this module's future statements."""
    return compile(path.read_bytes().decode(), str(path), "exec", dont_inherit=True)


def _load_prepare(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("prepare", path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["prepare"] = module
    exec(compiled(path), module.__dict__)
    return module


def _marking(
    make_dataloader: Callable[..., Iterator[Any]], budget_clock: BudgetClock, orders: RunnerOrders
) -> Callable[..., Iterator[Any]]:
    """Return the subject's own loader, which counts batches, ends a replica at its first batch, and serves only the
    training split.
    """

    def make_marked(*given: Any, **named: Any) -> Iterator[Any]:
        rows, tokens, split = shape_asked(make_dataloader, given, named)
        refuse_other_splits(split)
        if orders.replica_of is not None:
            return map(_refuse, range(1))
        return _marked(make_dataloader(*given, **named), rows * tokens, budget_clock)

    return make_marked


def shape_asked(
    make_dataloader: Callable[..., object], given: tuple[Any, ...], named: dict[str, Any]
) -> tuple[int, int, str]:
    """Return rows, tokens in a row, and split of a call of `make_dataloader(tokenizer, rows, tokens, split, ...)`.

    The parameters may have other names. Raise TypeError for arguments that do not fit.
    """
    bound = inspect.signature(make_dataloader).bind(*given, **named)
    bound.apply_defaults()
    _, rows, tokens, split = list(bound.arguments.values())[:4]
    return rows, tokens, split


def refuse_other_splits(split: str) -> None:
    """Raise ValueError for every split but the training one."""
    if split != "train":
        raise ValueError(f"a trial serves the split 'train' only, not {split!r}; scoring is the trainer's")


def _marked(batches: Iterator[Any], tokens: int, budget_clock: BudgetClock) -> Iterator[Any]:
    for batch in batches:
        budget_clock.batch_taken(tokens)
        yield batch


def _refuse(_: int) -> Any:
    raise _FirstBatch


def _with_seed(seed_with: Callable[[int], Any], ours: int) -> Callable[..., Any]:
    def imposed(*_: object, **__: object) -> Any:
        return seed_with(ours)

    return imposed


def _why_no_gpu() -> str | None:
    """Return torch's reason why it can use no GPU, or None if it can use one."""
    import torch  # noqa: PLC0415

    if torch.cuda.is_available():
        return None
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (AssertionError, RuntimeError) as error:  # the first is a build without CUDA
        return " ".join(str(error).split())
    return "CUDA shows no device"


def _device_facts(vram_mib: int | None) -> ChannelMessage:
    """Return the message about the candidate's device, and set torch's memory cap on a GPU."""
    import torch  # noqa: PLC0415

    if not torch.cuda.is_available():
        return ChannelMessage(MessageType.IMPORTED, number=torch.get_num_threads(), text=f"{torch.__version__}|")
    device = torch.cuda.get_device_properties(0)
    if vram_mib is not None:
        torch.cuda.set_per_process_memory_fraction(memory_fraction(vram_mib, device.total_memory / 2**20))
    return ChannelMessage(
        MessageType.IMPORTED,
        number=torch.get_num_threads(),
        x=device.total_memory / 2**20,
        text=f"{torch.__version__}|{device.name}",
    )


def _calibrated(facts: ChannelMessage) -> ChannelMessage:
    """Add the speed of the GPU to the message, if there is a GPU."""
    from trainer.candidate.gpu_speed import gpu_s  # noqa: PLC0415

    return replace(facts, y=gpu_s()) if facts.x else facts


def memory_fraction(cap_mib: int, total_mib: float) -> float:
    """Return the share of a GPU that torch may allocate so that the whole process stays below a cap in MiB.

    Raise ValueError for a cap that CUDA's own context fills.
    """
    if cap_mib <= CONTEXT_MIB:
        raise ValueError(f"a cap of {cap_mib} MiB of the GPU's memory leaves none: CUDA itself takes {CONTEXT_MIB} MiB")
    return min(1.0, (cap_mib - CONTEXT_MIB) / total_mib)


def _without_ours(error: BaseException) -> list[str]:
    """Return the formatted traceback, beginning at the first frame outside of this file."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return traceback.format_exception(type(error), error, trace)
