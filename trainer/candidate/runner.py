"""The trusted start inside a candidate's process: seed, clock and `prepare` are ours, then its train.py runs unedited.

Promises: train.py runs by its path as `__main__`, its tracebacks show its own lines, it leaves with the exit code that
python would give. Does not cover a script that undoes this from inside the process; the trainer trusts nothing that
this process says but logits.
"""

from __future__ import annotations

import contextlib
import importlib.util
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
from trainer.candidate.logits_server import LogitsServer, named, unwrapped
from trainer.candidate.preload import preload
from trainer.candidate.protocol import Channel, ChannelMessage, Layout, MessageType

CONTEXT_MIB = 600  # of CUDA's context, which torch does not count


@dataclass(frozen=True)
class RunnerOrders:
    """The runner's only argument, as JSON. The descriptors are inherited. `replica_of` names the model whose weights
    are in `weights_fd`, and after a bar the precision; None for a candidate that is to train."""

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
    """Entry point of the candidate's process."""
    orders = RunnerOrders(**json.loads(sys.argv[2]))
    sys.path[0] = os.getcwd()
    channel = Channel.from_fd(orders.control_fd)
    channel.send(ChannelMessage(MessageType.STARTED))
    from torch.optim.optimizer import register_optimizer_step_post_hook  # noqa: PLC0415 - the trainer times this

    facts = _device_facts(orders.vram_mib)
    preload(Path("train.py").read_bytes(), Path.cwd(), has_card=bool(facts.x))
    impose_seed(orders.seed)
    channel.send(_calibrated(facts))
    budget_clock = BudgetClock(
        orders.clock,
        orders.amount,
        orders.warmup_steps,
        orders.warmup_cap_s,
        channel,
        free_setup=orders.free_setup,
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
    """Seed everything, and make a script that seeds for itself get the same seed again."""
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
    """Run to the end or to an exception, print it as python would, and give the exit code."""
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
    """The replica's script wants to train. No exception of a script's own kind: it shall not catch it."""


def _run_replica(orders: RunnerOrders, server: LogitsServer, budget_clock: BudgetClock) -> None:
    """The script up to its first batch, then the weights of the candidate, then questions."""
    import torch  # noqa: PLC0415

    assert orders.replica_of is not None
    try:
        _run(orders, server, budget_clock)
    except _FirstBatch:
        name, _, precision = orders.replica_of.partition("|")
    else:
        raise SystemExit("the replica took no batch from make_dataloader")
    model = named(name)
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
        prepare.progress = budget_clock.progress
        prepare.make_dataloader = _marking(prepare.make_dataloader, budget_clock, orders)
        if orders.clock != "steps":
            prepare.TIME_BUDGET = orders.amount

    run_script(put_ours, ModuleType("__main__"))


def run_script(put_ours: Callable[[ModuleType], None], script: ModuleType) -> None:
    """Run the train.py of this folder in the namespace `script`, with its prepare changed; to its end or exception.

    Both are compiled from their text, as they were validated and shown: of bytes Python would obey an encoding that a
    comment declares.
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
    """The code of a file's text, which is UTF-8 whatever it says of itself. It inherits nothing of this module."""
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
    """The subject's own loader, with its first batch reported, or refused to a replica, and every split but the
    training one refused."""

    def make_marked(tokenizer: object, B: int, T: int, split: str = "train", *rest: Any, **named: Any) -> Iterator[Any]:  # noqa: N803
        refuse_other_splits(split)
        if orders.replica_of is not None:
            return map(_refuse, range(1))
        return _marked(make_dataloader(tokenizer, B, T, split, *rest, **named), B * T, budget_clock)

    return make_marked


def refuse_other_splits(split: str) -> None:
    """Raises ValueError for every split but the training one."""
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


def _device_facts(vram_mib: int | None) -> ChannelMessage:
    """What the candidate runs on, with torch's own memory cap set where there is one."""
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
    """With how fast the GPU is, where there is one."""
    from trainer.candidate.gpu_speed import card_s  # noqa: PLC0415

    return replace(facts, y=card_s()) if facts.x else facts


def memory_fraction(cap_mib: int, total_mib: float) -> float:
    """The share of a GPU that torch may allocate so that the whole process stays below a cap.

    Raises ValueError for a cap that CUDA's own context fills.
    """
    if cap_mib <= CONTEXT_MIB:
        raise ValueError(f"a cap of {cap_mib} MiB of the GPU's memory leaves none: CUDA itself takes {CONTEXT_MIB} MiB")
    return min(1.0, (cap_mib - CONTEXT_MIB) / total_mib)


def _without_ours(error: BaseException) -> list[str]:
    """The traceback from the first frame that is not this file's."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return traceback.format_exception(type(error), error, trace)
