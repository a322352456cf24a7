"""The candidate's side of scoring: `evaluate_bpb` becomes a server of logits for tokens that the trainer chooses.

Promises: the first call counts, and later calls return the same value. The candidate's process never gets targets, the
number of rows, or which rows decide. The returned number is the trainer's. A replica, which is a fresh process with the
same script and weights, answers in the same way.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import sys
from collections.abc import Iterable, Mapping
from types import FrameType
from typing import Any, NoReturn

from trainer.candidate.budget_clock import BudgetClock
from trainer.candidate.protocol import BUFFERS, Channel, ChannelMessage, Layout, MessageType

_HALF_LARGEST = 65504.0
_GONE = 75
_ANSWERS_SEED = 0


class LogitsServer:
    """Answers SCORE messages until SCORED. The buffers are the trainer's memory files, mapped at the first need.

    The number of threads stays that of the training: two threads on a shared machine made scoring three times slower.
    """

    def __init__(
        self,
        channel: Channel,
        layout: Layout,
        inputs_fd: int,
        logits_fd: int,
        weights_fd: int,
        budget_clock: BudgetClock,
    ) -> None:
        self._channel = channel
        self._weights_fd = weights_fd
        self._layout = layout
        self._inputs_fd = inputs_fd
        self._logits_fd = logits_fd
        self._budget_clock = budget_clock
        self._bpb: float | None = None

    def evaluate_bpb(self, model: Any, *_: object, **__: object) -> float:
        """Return the bits per byte of the validation rows, which the trainer computes from the model's logits.

        Other arguments, such as a batch size or a device, change nothing: the trainer chooses the rows.
        """
        if self._bpb is None:
            import torch  # noqa: PLC0415

            self._channel.send(
                ChannelMessage(MessageType.READY, number=self._budget_clock.steps, x=float(self._budget_clock.tokens))
            )
            if callable(getattr(model, "eval", None)):
                model.eval()
            with torch.no_grad():
                self._bpb = self._serve(torch, model)
        return self._bpb

    def warm(self, model: Any, *_: object, **__: object) -> None:
        """Compute the logits of rows without content, so that a compiler has compiled the evaluation before it counts.

        A script calls this in its uncounted steps. Afterwards the model trains as before.
        """
        import torch  # noqa: PLC0415

        shape = (self._layout.rows, self._layout.context)
        parts = [(part, part.training) for part in model.modules()] if isinstance(model, torch.nn.Module) else []
        if callable(getattr(model, "eval", None)):
            model.eval()
        with torch.no_grad():
            model(torch.zeros(shape, dtype=torch.int64, device=_device_of(torch, model)))
        for part, trains in parts:
            part.training = trains

    def _serve(self, torch: Any, model: Any) -> float:
        layout = self._layout
        inputs = mmap.mmap(self._inputs_fd, BUFFERS * layout.input_bytes, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        logits = mmap.mmap(self._logits_fd, BUFFERS * layout.logits_bytes)
        device = _device_of(torch, model)
        while True:
            message = self._channel.receive()
            if message is None:
                raise SystemExit(_GONE)
            if message.word is MessageType.SCORED:
                return message.x
            if message.word is MessageType.SAVE:
                self._save(torch, model)
                continue
            buffer = message.number
            tokens = torch.frombuffer(
                inputs, dtype=torch.int32, count=layout.rows * layout.context, offset=buffer * layout.input_bytes
            )
            fix_chance(torch)
            answer = model(tokens.view(layout.rows, layout.context).to(device=device, dtype=torch.int64))
            self._check(answer, (layout.rows, layout.context, layout.vocab))
            kind = torch.float16 if message.x == 2 and _fits_half(torch, answer) else torch.float32
            room = torch.frombuffer(logits, dtype=kind, count=answer.numel(), offset=buffer * layout.logits_bytes)
            room.view(answer.shape).copy_(answer)
            self._channel.send(ChannelMessage(MessageType.SERVED, number=buffer, x=float(room.element_size())))

    def _save(self, torch: Any, model: Any) -> None:
        """Write the weights for a replica to the trainer's memory file, and send the model's name and precision.

        A model that no name of the script holds is sent without one, because no replica could find it.
        """
        inner = unwrapped(model)
        name = _name_of(inner, held_names(calling())) if isinstance(inner, torch.nn.Module) else None
        if name is not None:
            os.ftruncate(self._weights_fd, 0)
            with open(os.dup(self._weights_fd), "wb") as file:
                torch.save(inner.state_dict(), file)
        self._channel.send(
            ChannelMessage(MessageType.SAVED, text=f"{name}|{_precision(torch, model)}" if name is not None else "")
        )

    def _check(self, answer: Any, expected: tuple[int, int, int]) -> None:
        found = getattr(answer, "shape", None)
        if found is None or tuple(found) != expected:
            shape = "no tensor" if found is None else f"shape {tuple(found)}"
            self._refuse(f"model(x) gave {shape}, not logits of shape {expected}")

    def _refuse(self, text: str) -> NoReturn:
        self._channel.send(ChannelMessage(MessageType.FAULT, text=text))
        raise SystemExit(text)


def fix_chance(torch: Any) -> None:
    """Seed the global generators before each answer.

    Dropout that was left on, or a layer of noise, then repeats its answers. A remaining difference has another cause.
    """
    random.seed(_ANSWERS_SEED)
    torch.manual_seed(_ANSWERS_SEED)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(_ANSWERS_SEED)


def unwrapped(model: Any) -> Any:
    """Return the module that torch.compile wrapped, or the model itself."""
    return getattr(model, "_orig_mod", model)


def held_names(frames: Iterable[FrameType]) -> dict[str, Any]:
    """Return the values of the script's names: those at module level, and those of its functions in these frames.

    The frames are the outermost first. A name of a function is written as in `main():model`; the outermost call of a
    function counts.
    """
    script = vars(sys.modules["__main__"])
    held = dict(script)
    for frame in frames:
        if frame.f_globals is script and frame.f_locals is not script:
            names = {f"{frame.f_code.co_name}():{name}": value for name, value in frame.f_locals.items()}
            held = names | held
    return held


def calling() -> list[FrameType]:
    """Return the frames of the running calls, the outermost first."""
    frames: list[FrameType] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return frames[::-1]


def named(name: str, held: Mapping[str, Any]) -> Any:
    """Return the value of one of the held names, or a part of it as in `wrapper.inner`, or None."""
    first, _, path = name.partition(".")
    return _parts(held.get(first)).get(path) if path else held.get(first)


def _name_of(module: Any, held: Mapping[str, Any]) -> str | None:
    """Return a name for a module: one that holds it, or a path from one that contains it, or None."""
    by_place = sorted(held.items(), key=lambda item: "():" in item[0])  # module level first
    whole = (name for name, value in by_place if unwrapped(value) is module)
    parts = (f"{name}.{path}" for name, value in by_place for path, part in _parts(value).items() if part is module)
    return next(whole, None) or next(parts, None)


def _parts(holder: Any) -> dict[str, Any]:
    """Return the modules in a module, or those that are attributes of an object of the script's own class."""
    import torch  # noqa: PLC0415

    inner = unwrapped(holder)
    if isinstance(inner, torch.nn.Module):
        return dict(inner.named_modules())
    own = type(inner).__module__ == "__main__" and hasattr(inner, "__dict__")
    return {name: value for name, value in vars(inner).items() if isinstance(value, torch.nn.Module)} if own else {}


def _precision(torch: Any, model: Any) -> str:
    """Return the type in which autocast computes, or an empty text without autocast."""
    kind = _device_of(torch, model).type
    return str(torch.get_autocast_dtype(kind)).partition(".")[2] if torch.is_autocast_enabled(kind) else ""


def _fits_half(torch: Any, answer: Any) -> bool:
    low, high = torch.aminmax(answer)
    return bool(low > -_HALF_LARGEST) and bool(high < _HALF_LARGEST)


def _device_of(torch: Any, model: Any) -> Any:
    """Return the device of the model's parameters. For a model without any, it is the GPU if there is one."""
    with contextlib.suppress(AttributeError, StopIteration, TypeError):
        return next(model.parameters()).device
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
