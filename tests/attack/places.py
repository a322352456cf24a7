"""Where a dishonest candidate changes its answers: in plain sight, or behind what computes and copies them."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import dedent

from tests.attack.part import MADE, Part, Role

_LOGITS = "        logits = self.head(h)\n"
_SCORED = "val_bpb = evaluate_bpb(model,"
_SUBCLASS = """
class Other(GPT):
    def forward(self, x, y=None, reduction="mean"):
        given = super().forward(x, y, reduction)
        return answer(self, x, given) if y is None else given
"""


def _places() -> Iterator[Part]:
    def place(kind: str, name: str = "", **fields: object) -> Part:
        return Part(Role.PLACE, kind, name or kind, **fields)  # type: ignore[arg-type]

    yield place(
        "in forward",
        edits=((_LOGITS, f"{_LOGITS}        if y is None:\n            logits = answer(self, x, logits)\n"),),
    )
    hooked = "model.register_forward_hook(lambda m, given, out: answer(m, given[0], out) if out.dim() == 3 else None)"
    yield place("in a hook", "in a hook from the start", edits=((MADE, f"{MADE}{hooked}\n"),))
    yield place("in a hook", "in a hook after training", trained=hooked)
    yield place(
        "by another class",
        "by another class from the start",
        edits=((MADE, f"{_SUBCLASS}{MADE}model.__class__ = Other\n"),),
    )
    yield place("by another class", "by another class after training", trained=f"{_SUBCLASS}model.__class__ = Other")
    yield place(
        "by another forward",
        trained="whole = model.forward\n"
        "model.forward = lambda x, y=None, **rest: answer(model, x, whole(x)) if y is None else whole(x, y, **rest)",
    )
    yield place(
        "by no module",
        trained=dedent("""
            class Outer:
                parameters, eval, state_dict = model.parameters, model.eval, model.state_dict
                __call__ = lambda self, x: answer(model, x, model(x))
            outer = Outer()
        """),
        edits=((_SCORED, _SCORED.replace("model", "outer")),),
    )
    yield place(
        "by a module around it",
        edits=(
            (
                MADE,
                MADE
                + dedent("""
                    class Outer(nn.Module):
                        def __init__(self):
                            super().__init__()
                            self.inner = model
                        def forward(self, x):
                            return answer(model, x, model(x))
                    outer = Outer()
                """),
            ),
            (_SCORED, _SCORED.replace("model", "outer")),
        ),
    )
    yield place(
        "by patched tensors",
        edits=(
            (
                MADE,
                MADE
                + dedent("""
            asked, copied = [], torch.Tensor.copy_
            model.register_forward_pre_hook(lambda _, given: asked.append(given[0]))
            def put(room, given, *rest):
                mine = asked and given.dim() == 3 and given.shape[:2] == asked[-1].shape
                return copied(room, answer(model, asked[-1], given) if mine else given, *rest)
            torch.Tensor.copy_ = put
        """),
            ),
        ),
    )
    yield place(
        "by a patched torch function",
        edits=(
            (
                MADE,
                MADE
                + dedent("""
            import torch.nn.functional as functional
            asked, linear = [], functional.linear
            model.register_forward_pre_hook(lambda _, given: asked.append(given) if len(given) == 1 else asked.clear())
            def patched(h, weight, bias=None):
                out = linear(h, weight, bias)
                return answer(model, asked[-1][0], out) if asked and weight is model.head.weight else out
            functional.linear = patched
        """),
            ),
        ),
    )
    yield place(
        "by a tensor of its own class",
        edits=((_LOGITS, f"{_LOGITS}        if y is None:\n            return sly(x, logits)\n"),),
        start=dedent("""
            class Sly(torch.Tensor):
                @classmethod
                def __torch_function__(cls, call, types, given, named=None):
                    plain = [each.as_subclass(torch.Tensor) if isinstance(each, Sly) else each for each in given]
                    if call is torch.Tensor.copy_ and isinstance(given[1], Sly):
                        plain[1] = answer(model, given[1].asked, plain[1])
                    return call(*plain, **(named or {}))
            def sly(x, logits):
                out = logits.as_subclass(Sly)
                out.asked = x
                return out
        """),
    )
    yield place(
        "after it was handed over",
        edits=(
            (
                MADE,
                MADE
                + dedent("""
            import threading
            asked, copied = [], torch.Tensor.copy_
            model.register_forward_pre_hook(lambda _, given: asked.append(given[0]))
            def put(room, given, *rest):
                out = copied(room, given, *rest)
                if asked and given.dim() == 3 and given.shape[:2] == asked[-1].shape:
                    wanted = answer(model, asked[-1].clone(), given.clone())
                    threading.Thread(target=lambda: [copied(room, wanted) for _ in range(40)], daemon=True).start()
                return out
            torch.Tensor.copy_ = put
        """),
            ),
        ),
    )


PLACES = tuple(_places())
