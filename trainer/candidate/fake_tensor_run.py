"""Dry run: runs a candidate's script in its process, with tensors that hold no numbers, until one whole step is done.

torch's fake tensors have real shapes and types but no numbers, so the largest model takes seconds and little memory.
Promises: a script fails only if the error can mean nothing but wrong code, see `code_errors`. Does not cover branches
for a GPU, since GPUs are hidden here, nor a script that forges the answer, which costs one trial.
"""

from __future__ import annotations

import contextlib
import json
import linecache
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from trainer.candidate.code_errors import KINDS, means_wrong_code
from trainer.candidate.logits_server import held_names
from trainer.candidate.protocol import Channel, ChannelMessage, MessageType
from trainer.candidate.runner import impose_seed, refuse_other_splits, run_guarded, run_script, shape_asked

PASSES, FAILS, UNKNOWN = "passes", "fails", "unknown"  # as in `trainer.jobs`, which is slow to import
ENOUGH_S = 10.0  # seconds of batches without a known step, as with long accumulation or an own optimiser
_LONGEST_REASON = 400
_MOST_MADE_UP = 2**20


@dataclass(frozen=True)
class DryRunOrders:
    """The program's argument, as JSON. `on_gpu`: the trial would run on a GPU."""

    control_fd: int
    seed: int
    on_gpu: bool


def main() -> None:
    """Run the dry run of train.py in the current folder, and exit with the code that python would give."""
    orders = DryRunOrders(**json.loads(sys.argv[2]))
    sys.path[0] = os.getcwd()
    channel = Channel.from_fd(orders.control_fd)
    channel.send(ChannelMessage(MessageType.STARTED))
    import torch  # noqa: PLC0415 - the trainer times this

    impose_seed(orders.seed)
    channel.send(ChannelMessage(MessageType.IMPORTED, number=torch.get_num_threads(), text=torch.__version__))
    code = run_guarded(lambda: _dry_run(orders, channel))
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


class _Enough(BaseException):
    """Raised to end the dry run. It is a BaseException so that the script does not catch it by accident."""


def _dry_run(orders: DryRunOrders, channel: Channel) -> None:
    """Run the script, send the verdict as a message, and print its reason as the last line.

    An exception that is not caught here does not count as wrong code; `run_guarded` prints its traceback.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: PLC0415

    _compile_nothing()
    _convert_in_place()
    dry_run, values, script = _DryRun(), _values(), ModuleType("__main__")
    trace: TracebackType | None = None
    verdict, line, reason = UNKNOWN, 0, "it ended before it had taken a whole step"
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), values:
            run_script(dry_run.put_ours, script)
    except _Enough as end:
        verdict, reason, trace = PASSES, dry_run.seen, end.__traceback__
    except KINDS as error:
        trace = error.__traceback__
        source = Path("train.py").absolute()
        line, reason = _reason(error, source)
        if line and not values.made_up and means_wrong_code(error, source, on_gpu=orders.on_gpu):
            verdict = FAILS
    held = held_names(frame for frame, _ in traceback.walk_tb(trace))
    count, size_bytes = _weights(held.values(), on_gpu=orders.on_gpu)
    sys.stdout.flush()
    print(f"\n{reason}", flush=True)
    channel.send(ChannelMessage(MessageType.VERDICT, number=line, x=count, y=size_bytes, text=verdict))


class _DryRun:
    """Replaces functions of prepare: batches have no content, and the dry run ends after one whole step."""

    def __init__(self) -> None:
        from torch.optim.optimizer import register_optimizer_step_post_hook  # noqa: PLC0415

        register_optimizer_step_post_hook(self._stepped)
        self._asked = False
        self._steps = 0
        self._first_batch_s: float | None = None
        self.seen = ""

    def put_ours(self, prepare: Any) -> None:
        """Replace the functions of prepare, for `run_script`. TIME_BUDGET stays, since no script gets that far."""
        prepare.evaluate_bpb = self._evaluate_bpb
        prepare.progress = self._progress
        prepare.make_dataloader = self._in_place_of(prepare.make_dataloader)

    def _end(self, seen: str) -> None:
        self.seen = seen
        raise _Enough

    def _progress(self) -> float:
        if self._asked and self._first_batch_s is not None:
            self._end("it took a whole step")
        self._asked = True
        return 0.0

    def _evaluate_bpb(self, *_: object, **__: object) -> float:
        if self._first_batch_s is None:
            raise SystemExit("it asked for its score before it took a batch from make_dataloader")
        self._end("it went on to its score")
        return 0.0

    def _stepped(self, *_: object) -> None:
        self._steps += 1

    def _in_place_of(self, make_dataloader: Callable[..., object]) -> Callable[..., Iterator[Any]]:
        import torch  # noqa: PLC0415

        def make_fake(*given: Any, **named: Any) -> Iterator[Any]:
            rows, tokens, split = shape_asked(make_dataloader, given, named)
            refuse_other_splits(split)
            shape = torch.Size((rows, tokens))
            return iter(lambda: self._batch(shape), None)

        return make_fake

    def _batch(self, shape: Any) -> Any:
        import torch  # noqa: PLC0415

        now = time.monotonic()
        if self._first_batch_s is None:
            self._first_batch_s = now
        elif self._steps:
            self._end("it took a whole step of its optimiser")
        elif now - self._first_batch_s > ENOUGH_S:
            self._end(f"nothing was wrong in {ENOUGH_S:g} s of batches")
        return torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.int64), 1


def _reason(error: BaseException, source: Path) -> tuple[int, str]:
    """Return the last line of train.py in the error's traceback, or 0, and the message in one line."""
    places = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(source)]
    line = (places[-1] if places else 0) or 0
    words = f"{type(error).__name__}: {error}".replace("FakeTensor'", "Tensor'")
    at = f" (line {line}: {linecache.getline(str(source), line).strip()[: _LONGEST_REASON // 2]})" if line else ""
    return line, " ".join(words.split())[:_LONGEST_REASON] + at


def _compile_nothing() -> None:
    """Make torch.compile return its argument, because compiled code computes the same."""
    import torch  # noqa: PLC0415

    def as_it_is(model: Any = None, *_: object, **__: object) -> Any:
        return (lambda function: function) if model is None else model

    torch.compile = as_it_is
    setattr(torch.nn.Module, "compile", lambda *_, **__: None)  # noqa: B010 - mypy knows a method there


def _convert_in_place() -> None:
    """Let `model.to(...)` replace the data of a fake parameter.

    torch swaps parameters that are no plain tensors, which fails here because the converter of fake tensors holds them.
    """
    import torch  # noqa: PLC0415

    def put(parameter: Any, converted: Any) -> None:
        parameter.data = converted.data

    torch.utils.swap_tensors = put


def _values() -> Any:
    """Return a mode that makes up a number if a script reads one from a fake tensor. `made_up` is then True."""
    import torch  # noqa: PLC0415
    from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor  # noqa: PLC0415
    from torch.overrides import TorchFunctionMode  # noqa: PLC0415

    class Values(TorchFunctionMode):
        made_up = False

        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            is_fake = bool(args) and isinstance(args[0], FakeTensor)
            if is_fake and function is torch.Tensor.__format__ and args[0].dim() == 0:
                self.made_up = True
                return format(_number(args[0]), args[1])  # torch itself formats no subclass
            try:
                return function(*args, **(kwargs or {}))
            except DataDependentOutputException:
                name = getattr(function, "__name__", "")
                if not is_fake or name not in _MADE or args[0].numel() > _MOST_MADE_UP:
                    raise
                self.made_up = True
                return _MADE[name](args[0])

    return Values()


def _number(tensor: Any) -> Any:
    """Return 1 in the tensor's own type, or False for a bool tensor, which usually means that nothing is wrong."""
    if tensor.is_floating_point():
        return 1.0
    return False if str(tensor.dtype) == "torch.bool" else 1


def _list(tensor: Any) -> Any:
    return _number(tensor) if tensor.dim() == 0 else [_list(part) for part in tensor]


_MADE: dict[str, Callable[[Any], Any]] = {
    "item": _number,
    "tolist": _list,
    "__float__": lambda _: 1.0,
    "__int__": lambda _: 1,
    "__index__": lambda _: 1,
    "__bool__": lambda _: False,
    "is_nonzero": lambda _: False,
    "__contains__": lambda _: False,
    "equal": lambda _: False,
    "allclose": lambda _: True,
}


def _weights(held: Iterable[Any], *, on_gpu: bool) -> tuple[float, float]:
    """Return number of parameters and least bytes with gradients of the largest model that the script holds, or 0.

    On a GPU a script may hold them in half precision.
    """
    import torch  # noqa: PLC0415

    found = [(0.0, 0.0)]
    for value in held:
        if isinstance(value, torch.nn.Module):
            weights = list(value.parameters())
            sizes = [
                weight.numel() * (min(2, weight.element_size()) if on_gpu else weight.element_size())
                * (2 if weight.requires_grad else 1)
                for weight in weights
            ]  # fmt: skip
            found.append((float(sum(weight.numel() for weight in weights)), float(sum(sizes))))
    return max(found)
