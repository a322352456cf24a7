"""Edits of the default subject as small models write them: wrong code that a syntax check does not see.

Each of `BROKEN` fails a real trial in its first step; `INNOCENT` are changes of the same kinds that run, there or on a
card.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.machine.subject import render_subject
from trainer.jobs import DryRunVerdict, profile_named


@dataclass(frozen=True)
class Broken:
    """What a check says of the edited train.py: its verdict, and a part of its reason."""

    name: str
    train: str
    says: str
    verdict: DryRunVerdict = DryRunVerdict.FAILS

    @property
    def files(self) -> dict[str, str]:
        """With the prepare.py that it is written for."""
        return FILES | {"train.py": self.train}


FILES = render_subject(profile_named("cpu"))
TRAIN = FILES["train.py"]


def edited(*replacements: tuple[str, str]) -> str:
    """train.py with each first text, which stands there once, replaced by its second."""
    source = TRAIN
    for old, new in replacements:
        assert source.count(old) == 1, f"stands {source.count(old)} times: {old}"
        source = source.replace(old, new)
    return source


BROKEN = (
    Broken(
        "a matrix of the wrong width",
        edited(
            (
                "self.mlp_out = nn.Linear(4 * width, width, bias=False)",
                "self.mlp_out = nn.Linear(3 * width, width, bias=False)",
            )
        ),
        "must have same reduction dim",
    ),
    Broken(
        "heads that do not fill the width",
        edited(("q = self.query(x).view(B, T, -1, HEAD_DIM)", "q = self.query(x).view(B, T, 3, HEAD_DIM)")),
        "is invalid for input of size",
    ),
    Broken(
        "no reshape before the output",
        edited(("heads.transpose(1, 2).reshape(B, T, width)", "heads.transpose(1, 2)")),
        "must have same reduction dim",
    ),
    Broken(
        "heads not transposed back",
        edited(("heads.transpose(1, 2).reshape(B, T, width)", "heads.reshape(B, width, T)")),
        "must have same reduction dim",
    ),
    Broken(
        "an argument too few",
        edited(
            (
                "heads = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), window)",
                "heads = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))",
            )
        ),
        "missing 1 required positional argument: 'window'",
    ),
    Broken(
        "an argument too many",
        edited(("self.mlp = MLP(width)", "self.mlp = MLP(width, 4)")),
        "takes 2 positional arguments but 3 were given",
    ),
    Broken(
        "an attribute that nobody made",
        edited(
            (
                "return self.mlp_out(relu_squared(self.mlp_in(x)))",
                "return self.mlp_out(relu_squared(self.mlp_in(x)) * self.scale)",
            )
        ),
        "'MLP' object has no attribute 'scale'",
    ),
    Broken(
        "a forgotten return",
        edited(
            (
                "return x + self.mlp(norm(x))",
                "x = x + self.mlp(norm(x))",
            )
        ),
        "'Tensor' and 'NoneType'",
    ),
    Broken(
        "joined along the wrong dimension",
        edited(
            (
                "return x * cos + x.roll(x.size(-1) // 2, dims=-1) * sin",
                "a, b = x.chunk(2, dim=-1)\n    return x * cos + torch.cat([b, a], dim=1) * sin",
            )
        ),
        "Attempting to broadcast a dimension",
    ),
    Broken(
        "halves that are not",
        edited(
            (
                "return x * cos + x.roll(x.size(-1) // 2, dims=-1) * sin",
                "a, b = x.chunk(3, dim=-1)\n    return x * cos + torch.cat([b, a], dim=-1) * sin",
            )
        ),
        "too many values to unpack",
    ),
    Broken(
        "a step of no whole batches",
        edited(("TOTAL_BATCH_SIZE = 2**11", "TOTAL_BATCH_SIZE = 3 * 2**10")),
        "is not a multiple of DEVICE_BATCH_SIZE",
    ),
    Broken(
        "a window past the pattern",
        edited(
            ("WINDOW_PATTERN[i % len(WINDOW_PATTERN)]", "WINDOW_PATTERN[i + len(WINDOW_PATTERN)]"),
        ),
        "string index out of range",
    ),
    Broken(
        "a table for a layer that has none",
        edited(
            (
                "values = self.value_embeddings[str(i)](x) if str(i) in self.value_embeddings else None",
                "values = self.value_embeddings[str(i)](x)",
            )
        ),
        "KeyError: '0'",
    ),
    Broken(
        "a scale of another length",
        edited(
            (
                "self.resid_scale = nn.Parameter(torch.ones(DEPTH))",
                "self.resid_scale = nn.Parameter(torch.ones(DEPTH - 1))",
            )
        ),
        "out of bounds for dimension 0",
    ),
    Broken(
        "a buffer that is gone",
        edited(("cos, sin = self.cos[:T], self.sin[:T]", "cos, sin = self.rope_cos[:T], self.sin[:T]")),
        "no attribute 'rope_cos'",
    ),
    Broken(
        "targets not flattened",
        edited(
            (
                "F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction=reduction)",
                "F.cross_entropy(logits.flatten(0, 1), y, reduction=reduction)",
            )
        ),
        "to match target batch_size",
    ),
    Broken(
        "classes in the wrong place",
        edited(
            (
                "F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction=reduction)",
                "F.cross_entropy(logits, y, reduction=reduction)",
            )
        ),
        "Expected target size",
    ),
    Broken(
        "a parameter without a gradient",
        edited(
            (
                "self.mlp_out = nn.Linear(4 * width, width, bias=False)",
                "self.mlp_out = nn.Linear(4 * width, width, bias=False)\n"
                "        self.unused_out = nn.Linear(width, width, bias=False)",
            )
        ),
        "but got NoneType",
    ),
    Broken(
        "a bias among the matrices",
        edited(("self.mlp_in = nn.Linear(width, 4 * width, bias=False)", "self.mlp_in = nn.Linear(width, 4 * width)")),
        "not enough values to unpack",
    ),
    Broken(
        "an optimiser's state of the wrong shape",
        edited(
            ("*((rows, 1) if rows >= columns else (1, columns))", "*((1, columns) if rows >= columns else (rows, 1))")
        ),
        "doesn't match the broadcast shape",
    ),
    Broken(
        "more values to unpack",
        edited(("x, y, epoch = next(loader)", "x, y = next(loader)")),
        "too many values to unpack",
    ),
    Broken(
        "a gate of the wrong input",
        edited(("self.gate(x[..., :GATE_CHANNELS])", "self.gate(x)")),
        "must have same reduction dim",
    ),
    Broken(
        "half precision met by full",
        edited(("self.head(norm(stream) / SOFTCAP)", "self.head(norm(stream).bfloat16())")),
        "it took a whole step",
        DryRunVerdict.PASSES,
    ),  # fakes do not mind
    Broken(
        "an error after a number was read",
        edited(("    loss = loss.item()\n", "    loss = loss.item()\n    torch.zeros(2, 3) @ torch.zeros(2, 3)\n")),
        "must have same reduction dim",
        DryRunVerdict.UNKNOWN,
    ),
)
INNOCENT = {
    "as it is": TRAIN,
    "another activation": edited(("relu_squared(self.mlp_in(x))", "F.gelu(self.mlp_in(x))")),
    "a wider MLP": edited(
        ("nn.Linear(width, 4 * width, bias=False)", "nn.Linear(width, 3 * width, bias=False)"),
        ("nn.Linear(4 * width, width, bias=False)", "nn.Linear(3 * width, width, bias=False)"),
    ),
    "a loss that is looked at": edited(
        (
            "    lrm = lr_multiplier(share)",
            "    if loss.isnan() or loss > 50:\n        raise ValueError('no')\n    lrm = lr_multiplier(share)",
        )
    ),
    "clipped gradients": edited(
        (
            "    optimizer.step(lrm,",
            "    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n    optimizer.step(lrm,",
        )
    ),
    "a card that is synchronised": edited(
        ("    loss = loss.item()", "    loss = loss.item()\n    torch.cuda.synchronize()")
    ),
}
