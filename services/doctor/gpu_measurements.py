"""The measurements on the GPU. Each runs in a process of its own, so that a fault of the GPU ends nothing else.

`python -m services.doctor.gpu_measurements NAME ORDERS`, with orders in JSON, prints `measured: ` and an object of JSON
in its last line. The built-in train.py trains with the shape of the profile on its own text, byte by byte, so that no
data and no network are needed. Without a GPU the same code runs on the processor. No GPU has run it yet.
"""

from __future__ import annotations

import json
import runpy
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from services.doctor.gpu_report import RESULT_MARK
from trainer.candidate.protocol import Layout
from trainer.candidate.runner import memory_fraction
from trainer.scoring.cross_entropy import nats

_CUDA = torch.cuda.is_available()
_DEVICE = "cuda" if _CUDA else "cpu"
_SIZE = 1024
_CAP_MIB = 1024
_MIB = 2**20

Measurement = dict[str, Any]


def kernel(_: Measurement) -> Measurement:
    """Multiply matrices in bf16, and compare with float32 on the processor."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(_SIZE, _SIZE, generator=generator).bfloat16() for _ in range(2))
    found = (left.to(_DEVICE) @ right.to(_DEVICE)).float().cpu()
    return {
        "torch": torch.__version__,
        "device": _DEVICE,
        "difference": _difference(found, left.float() @ right.float()),
    }


def attention(orders: Measurement) -> Measurement:
    """Run compiled flex attention forward and backward, and compare output and gradient with plain attention."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention  # noqa: PLC0415 takes a second

    context, head = orders["context"], orders["head"]

    def window(_batch: Any, _head: Any, query: Any, key: Any) -> Any:
        return (query >= key) & (query - key < context // 2)

    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(1, 2, context, head, generator=generator).bfloat16() for _ in range(3)]
    block_mask = create_block_mask(window, None, None, context, context, device=_DEVICE)
    position = torch.arange(context)
    plain_mask = window(None, None, position[:, None], position[None, :])
    ours: list[Any] = [each.to(_DEVICE).requires_grad_() for each in inputs]
    plain: list[Any] = [each.float().requires_grad_() for each in inputs]
    compiled: Any = torch.compile(flex_attention, dynamic=False)
    found = compiled(*ours, block_mask=block_mask)
    expected: Any = torch.nn.functional.scaled_dot_product_attention(plain[0], plain[1], plain[2], plain_mask)
    found.float().sum().backward()
    expected.sum().backward()
    pairs = [(found, expected), *((a.grad, b.grad) for a, b in zip(ours, plain, strict=True))]
    return {
        "torch": torch.__version__,
        "device": _DEVICE,
        "difference": max(_difference(a.detach().float().cpu(), b.detach()) for a, b in pairs),
    }


def cap(_: Measurement) -> Measurement:
    """Ask for twice a cap of 1 GiB, and say whether that was refused."""
    total_mib = torch.cuda.get_device_properties(0).total_memory / _MIB
    torch.cuda.set_per_process_memory_fraction(memory_fraction(_CAP_MIB, total_mib))
    try:
        torch.empty(2 * _CAP_MIB * _MIB, dtype=torch.uint8, device="cuda")
    except torch.OutOfMemoryError:
        return {"refused": True}
    return {"refused": False}


def training(orders: Measurement) -> Measurement:
    """Run some steps of the train.py in `folder`, and score `rows` rows.

    `cap_mib` limits the memory of the GPU. Without enough memory the result is `out_of_memory`.
    """
    if _CUDA and orders["cap_mib"] is not None:
        total_mib = torch.cuda.get_device_properties(0).total_memory / _MIB
        torch.cuda.set_per_process_memory_fraction(memory_fraction(orders["cap_mib"], total_mib))
    script = Path(orders["folder"]) / "train.py"
    recorder = Recorder(orders, script.read_bytes())
    sys.modules["prepare"] = recorder.as_prepare()
    try:
        runpy.run_path(str(script), run_name="__main__")
    except torch.OutOfMemoryError:
        return {"out_of_memory": True}
    return recorder.measured()


class Recorder:
    """Stands in for prepare.py: gives batches of a text, counts the steps, and scores rows."""

    def __init__(self, orders: Measurement, text: bytes) -> None:
        self._context, self._vocab = int(orders["context"]), int(orders["vocab"])
        self._steps, self._uncounted, self._rows = orders["steps"], orders["uncounted"], orders["rows"]
        self._text = np.frombuffer(text, dtype=np.uint8).astype(np.int64)
        self._began = time.perf_counter()
        self._starts: list[float] = []
        self._first_answer_s = self._row_s = 0.0
        self._batch = 0

    def as_prepare(self) -> ModuleType:
        """Return the module that train.py imports."""
        prepare = ModuleType("prepare")
        contents: dict[str, object] = {
            "MAX_SEQ_LEN": self._context,
            "TIME_BUDGET": 1,
            "Tokenizer": self,
            "evaluate_bpb": self._score,
            "make_dataloader": self._batches,
            "peak_flops": lambda _: None,
            "progress": self._progress,
            "warm_evaluation": self._warm,
        }
        vars(prepare).update(contents)
        return prepare

    def from_directory(self) -> Recorder:
        """Return the tokenizer, which only knows the size of the vocabulary."""
        return self

    def get_vocab_size(self) -> int:
        """Return the number of tokens in the vocabulary."""
        return self._vocab

    def measured(self) -> Measurement:
        """Return the fields of `services.doctor.gpu_report.Training`."""
        steps_s = np.diff(self._starts)
        step_s = median(steps_s[self._uncounted :].tolist())
        peak_mib = torch.cuda.max_memory_reserved() // _MIB if _CUDA else None
        return {
            "batch": self._batch,
            "setup_s": self._starts[0] - self._began,
            "compile_s": max(0.0, float(steps_s[: self._uncounted].sum()) - self._uncounted * step_s),
            "step_s": step_s,
            "first_answer_s": self._first_answer_s,
            "row_s": self._row_s,
            "peak_mib": peak_mib,
        }

    def _progress(self) -> float:
        self._starts.append(time.perf_counter())
        return 1.0 if len(self._starts) > self._uncounted + self._steps else 0.0

    def _batches(self, _: object, rows: int, context: int, __: str) -> Iterator[tuple[Any, Any, int]]:
        self._batch = rows
        while True:
            batch = torch.from_numpy(self._packed(rows, context)).to(_DEVICE)
            yield batch[:, :-1].contiguous(), batch[:, 1:].contiguous(), 1

    def _packed(self, rows: int, context: int) -> npt.NDArray[np.int64]:
        return np.resize(self._text, (rows, context + 1))

    def _warm(self, model: Any, *_: object) -> None:
        layout = Layout.fitting(self._context, self._vocab, self._rows)
        model.eval()
        with torch.no_grad():
            model(torch.zeros(layout.rows, self._context, dtype=torch.int64, device=_DEVICE))
        model.train()

    def _score(self, model: Any, *_: object) -> float:
        layout = Layout.fitting(self._context, self._vocab, self._rows)
        packed = self._packed(layout.rows, self._context)
        tokens, targets = torch.from_numpy(packed[:, :-1].copy()).to(_DEVICE), packed[:, 1:].reshape(-1)
        began = time.perf_counter()
        loss = self._answer(model, tokens, targets)
        self._first_answer_s = time.perf_counter() - began
        began = time.perf_counter()
        answers = -(-self._rows // layout.rows)
        for _number in range(answers):
            loss = self._answer(model, tokens, targets)
        self._row_s = (time.perf_counter() - began) / (answers * layout.rows)
        return loss

    def _answer(self, model: Any, tokens: Any, targets: npt.NDArray[np.int64]) -> float:
        """Return the mean loss of a batch, whose logits leave the GPU in half precision as in a trial."""
        with torch.no_grad():
            logits = model(tokens).to(torch.float16 if _CUDA else torch.float32).cpu().numpy()
        return float(nats(logits.reshape(-1, self._vocab), targets).mean())


def _difference(found: Any, expected: Any) -> float:
    """Return the largest difference, relative to the largest value."""
    return float((found - expected).abs().max() / expected.abs().max())


MEASUREMENTS: dict[str, Callable[[Measurement], Measurement]] = {
    "kernel": kernel,
    "attention": attention,
    "cap": cap,
    "training": training,
}


def main() -> None:
    """Do one measurement."""
    name, orders = sys.argv[1:]
    print(f"\n{RESULT_MARK}{json.dumps(MEASUREMENTS[name](json.loads(orders)))}", flush=True)


if __name__ == "__main__":
    main()
