"""Honest models of many shapes: what no examination may refuse. The smallest GPT of the cheats, edited, and whole
scripts beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from researcher.knobs import set_knobs
from tests.subjects.cheats import HONEST, before_attention, edited, in_forward
from tests.trainer.subject_bench import SOURCE, TINY_CONSTANTS, TINY_KNOBS

_FOLDER = Path(__file__).parent
_MADE = "model = GPT(tokenizer.get_vocab_size())\n"
_ATTENDED = "        h = h + F.scaled_dot_product_attention(q, k, v, is_causal=True)\n"
_PARTS = "        self.qkv = nn.Linear(32, 96, bias=False)\n"
_EVALUATED = "val_bpb = evaluate_bpb(model, tokenizer, 8)\n"


@dataclass(frozen=True)
class Honest:
    """A script and the prepare.py that it is written for."""

    name: str
    train: str
    prepare: str = (_FOLDER / "tiny" / "prepare.py").read_text()


HONEST_MODELS = (
    Honest("fp32", HONEST),
    Honest("bf16 weights", edited((_MADE, _MADE.replace("())\n", "()).to(torch.bfloat16)\n")))),
    Honest(
        "bf16 by autocast",
        edited(
            (
                "    model(x, y).backward()",
                "    with torch.autocast('cpu', torch.bfloat16):\n        model(x, y).backward()",
            ),
            (_EVALUATED, f"with torch.autocast('cpu', torch.bfloat16):\n    {_EVALUATED}"),
        ),
    ),
    Honest("logits in fp16", in_forward("if y is None:\n    return logits.half()")),
    Honest("dropout left on", before_attention("h = h + 0.03 * F.dropout(h, 0.1)")),
    Honest(
        "training mode left on",
        edited(
            (_PARTS, _PARTS + "        self.dropout = nn.Dropout(0.1)\n"),
            (
                "        h = self.wte(x)\n",
                "        self.train()\n        h = self.wte(x)\n        h = h + 0.01 * self.dropout(h)\n",
            ),
        ),
    ),
    Honest("compiled", edited((_MADE, f"{_MADE}model = torch.compile(model, dynamic=False)\n"))),
    Honest(
        "grouped queries",
        edited(
            ("nn.Linear(32, 96, bias=False)", "nn.Linear(32, 64, bias=False)"),
            (
                "        q, k, v = self.qkv(h).chunk(3, dim=-1)\n",
                "        heads = self.qkv(h).unflatten(-1, (8, 8)).transpose(1, 2)\n"
                "        q, k, v = heads.split((4, 2, 2), dim=1)\n",
            ),
            (
                _ATTENDED,
                "        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)\n"
                "        h = h + mixed.transpose(1, 2).flatten(2)\n",
            ),
        ),
    ),
    Honest(
        "tied embeddings",
        edited(
            ("vocab_size, bias=False)\n", "vocab_size, bias=False)\n        self.head.weight = self.wte.weight\n"),
        ),
    ),
    Honest(
        "mixture of experts",
        edited(
            (
                _PARTS,
                _PARTS + "        self.router = nn.Linear(32, 4)\n"
                "        self.experts = nn.ModuleList(nn.Linear(32, 32) for _ in range(4))\n",
            ),
            (
                _ATTENDED,
                _ATTENDED + "        weight, chosen = self.router(h).softmax(-1).max(-1, keepdim=True)\n"
                "        h = h + sum(weight * (chosen == i) * each(h).relu() for i, each in enumerate(self.experts))\n",
            ),
        ),
    ),
    Honest(
        "four layers with windows",
        edited(
            (
                _PARTS,
                "        self.layers = nn.ModuleList(nn.Linear(32, 96, bias=False) for _ in range(4))\n"
                "        back = torch.arange(32)[:, None] - torch.arange(32)\n"
                "        self.register_buffer('short', (back >= 0) & (back < 8), persistent=False)\n",
            ),
            ("        q, k, v = self.qkv(h).chunk(3, dim=-1)\n", ""),
            (
                _ATTENDED,
                "        for at, layer in enumerate(self.layers):\n"
                "            q, k, v = layer(F.rms_norm(h, (32,))).chunk(3, dim=-1)\n"
                "            windows = {'attn_mask': self.short} if at % 4 < 3 else {'is_causal': True}\n"
                "            h = h + F.scaled_dot_product_attention(q, k, v, **windows)\n",
            ),
        ),
    ),
    Honest(
        "causal convolution and running mean",
        edited(
            (_PARTS, _PARTS + "        self.filter = nn.Conv1d(32, 32, 4, groups=32)\n"),
            (
                _ATTENDED,
                "        h = h + self.filter(F.pad(h.mT, (3, 0))).mT\n"
                "        h = h + h.cumsum(1) / torch.arange(1, 33)[:, None]\n",
            ),
        ),
    ),
    Honest(
        "held as a part of another module",
        edited(
            (_MADE, "holder = nn.ModuleDict({'inner': GPT(tokenizer.get_vocab_size())})\n"),
            ("AdamW(model.", "AdamW(holder."),
            ("    model(x, y)", "    holder['inner'](x, y)"),
            ("evaluate_bpb(model,", "evaluate_bpb(holder['inner'],"),
        ),
    ),
    Honest(
        "wrapped in another module",
        edited(
            (_EVALUATED, _EVALUATED.replace("(model,", "(wrapper,")),
            (_MADE, f"{_MADE}wrapper = nn.Sequential(model)\n"),
        ),
    ),
    Honest("average of its weights", (_FOLDER / "averages_its_weights.py").read_text()),
    Honest("upstream's shape", (_FOLDER / "own" / "train.py").read_text()),
    Honest(
        "the default subject",
        set_knobs((SOURCE / "train.py").read_text(), TINY_KNOBS),
        set_knobs((SOURCE / "prepare.py").read_text(), TINY_CONSTANTS),
    ),
)
