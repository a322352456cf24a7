"""Honest models of many shapes: what no examination may refuse. `HONEST_MODELS` has a line on each: the smallest GPT of
the cheats, edited, or a whole script beside this file; and what makes it hard to tell from one that looks ahead."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent, indent

from researcher.source.knobs import set_knobs
from tests.fixtures.subject_in_parts import SOURCE, TINY_CONSTANTS, TINY_KNOBS
from tests.fixtures.trials import VOCAB
from tests.subjects.cheats import HONEST, before_attention, edited, in_forward

_FOLDER = Path(__file__).parent
_IMPORTED = "import torch\nimport torch.nn.functional as F\n"
_MADE = "model = GPT(tokenizer.get_vocab_size())\n"
_LEARNED = "    model(x, y).backward()"
_PROJECTED = "        q, k, v = self.qkv(h).chunk(3, dim=-1)\n"
_ATTENDED = "        h = h + F.scaled_dot_product_attention(q, k, v, is_causal=True)\n"
_PARTS = "        self.qkv = nn.Linear(32, 96, bias=False)\n"
_LOGITS = "        logits = self.head(h)\n"
_EVALUATED = "val_bpb = evaluate_bpb(model, tokenizer, 8)\n"


@dataclass(frozen=True)
class Honest:
    """A script and the prepare.py that it is written for. `hard` says why an examination might take it for a cheat.

    `quick` marks those that the fast tests look at. `whole` marks those that the slow tests run as whole trials, with a
    replica: what is hard about them lies in their process or in their state_dict. `scripts/bench honest` runs all so.
    """

    name: str
    hard: str
    train: str
    prepare: str = (_FOLDER / "tiny" / "prepare.py").read_text()
    vocab: int = VOCAB
    whole: bool = False
    quick: bool = False


def _shape(parts: str = "", attention: str | None = None, after: str = "", logits: str | None = None) -> str:
    """The GPT with more `parts`, other lines for its attention, lines `after` that, and other lines for its logits."""
    inside = "        "
    attended = _PROJECTED + _ATTENDED if attention is None else indent(dedent(attention), inside)
    return edited(
        (_PARTS, _PARTS + indent(dedent(parts), inside)),
        (_PROJECTED + _ATTENDED, attended + indent(dedent(after), inside)),
        (_LOGITS, _LOGITS if logits is None else indent(dedent(logits), inside)),
    )


def _autocast(script: str) -> str:
    """The script with bf16 by autocast, in training and while it is scored."""
    autocast = "with torch.autocast('cpu', torch.bfloat16):\n"
    return edited(
        (_LEARNED, f"    {autocast}    {_LEARNED}"),
        (_EVALUATED, f"{autocast}    {_EVALUATED}"),
        of=script,
    )


_GATHERED_EXPERTS = _shape(
    """
    self.router = nn.Linear(32, 32)
    self.experts = nn.ModuleList(nn.Linear(32, 32) for _ in range(32))
    """,
    after="""
    flat = h.flatten(0, 1)
    weight, chosen = self.router(flat).softmax(-1).max(-1)
    mixed = torch.zeros_like(flat)
    for i, expert in enumerate(self.experts):
        at = (chosen == i).nonzero()[:, 0]
        mixed = mixed.index_add(0, at, (weight[at, None] * expert(flat[at]).relu()).to(mixed.dtype))
    h = h + mixed.view_as(h)
    """,
)
_LONG_FILTER = _shape(
    "self.filter = nn.Parameter(torch.randn(32, 32) / 8)\n",
    after="""
    both = torch.fft.rfft(h.float(), n=64, dim=1) * torch.fft.rfft(self.filter, n=64, dim=0)
    h = h + torch.fft.irfft(both, n=64, dim=1)[:, :32]
    """,
)

_NUMBERS = (
    Honest("fp32", "The plain case: every figure must be exactly 0.", HONEST, whole=True, quick=True),
    Honest(
        "bf16 weights",
        "A step of its logits is coarse, so a difference in rounding is large.",
        edited((_MADE, _MADE.replace("())\n", "()).to(torch.bfloat16)\n"))),
        whole=True,
    ),
    Honest(
        "bf16 by autocast",
        "A replica must find the script's autocast again.",
        _autocast(HONEST),
        whole=True,
        quick=True,
    ),
    Honest(
        "logits in fp16",
        "Its logits are rounded once more.",
        in_forward("if y is None:\n    return logits.half()"),
        whole=True,
    ),
    Honest(
        "logits in float64",
        "They are rounded to float32 on their way.",
        in_forward("if y is None:\n    return logits.double()"),
        quick=True,
    ),
    Honest(
        "all in float64",
        "So are the logits of a model that computes in float64.",
        edited((_MADE, _MADE.replace("())\n", "()).double()\n"))),
    ),
    Honest(
        "logits a thousand times as large",
        "Their last bit is worth 0.0005.",
        in_forward("if y is None:\n    return logits * 1000"),
    ),
    Honest(
        "logits a millionth as large",
        "A look-ahead would be as small.",
        in_forward("if y is None:\n    return logits * 1e-6"),
    ),
    Honest(
        "logits far from zero", "What they have in common takes their last bits.", in_forward("logits = logits + 1e4")
    ),
    Honest(
        "a token that is ruled out",
        "One logit in each row is -1e9, as masks are written.",
        in_forward("logits = logits.index_fill(-1, torch.tensor([0]), -1e9)"),
        quick=True,
    ),
    Honest("log probabilities for logits", "All of them are below 0.", in_forward("logits = logits.log_softmax(-1)")),
    Honest(
        "softcap on its logits",
        "Large changes are pressed together.",
        in_forward("logits = 15 * torch.tanh(logits * 4 / 15)"),
    ),
    Honest("never trained", "Its answers say nothing of the next token.", edited(("lr=0.02", "lr=0.0"))),
    Honest(
        "uniform", "All logits are 0: there is nothing to divide by.", in_forward("logits = logits * 0"), quick=True
    ),
    Honest(
        "the same everywhere",
        "One row of logits, expanded to all positions: nothing it says depends on what it sees.",
        _shape(
            "self.bias = nn.Parameter(torch.zeros(vocab_size))\n", logits="logits = self.bias.expand(*x.shape, -1)\n"
        ),
    ),
    Honest(
        "eight bits a weight and a value",
        "Quantised with the scale of each token: small differences become steps.",
        _shape(
            after="""
            def quantised(t):
                scale = t.detach().abs().amax(-1, keepdim=True) / 127 + 1e-9
                return t + ((t / scale).round() * scale - t).detach()

            h = F.linear(quantised(F.rms_norm(h, (32,))), quantised(self.qkv.weight[:32])) + h
            """
        ),
    ),
    Honest("a vocabulary of 8192", "A largest change is sought among many logits.", HONEST, vocab=8192),
    Honest("a vocabulary of 3", "Many a text behind a cut goes on with the same token.", HONEST, vocab=3, quick=True),
    Honest(
        "a padded vocabulary",
        "Its logits are a view of larger ones.",
        edited(
            (
                "(32, vocab_size, bias=False)\n",
                "(32, (vocab_size + 63) // 64 * 64, bias=False)\n        self.size = vocab_size\n",
            )
        ).replace("logits = self.head(h)\n", "logits = self.head(h)[..., : self.size]\n"),
    ),
)

_CHANCE = (
    Honest(
        "dropout left on",
        "No two of its answers are the same.",
        before_attention("h = h + 0.03 * F.dropout(h, 0.1)"),
        whole=True,
        quick=True,
    ),
    Honest(
        "training mode left on",
        "It calls train() in its forward, so that eval() does not help.",
        edited(
            (_PARTS, _PARTS + "        self.dropout = nn.Dropout(0.1)\n"),
            (
                "        h = self.wte(x)\n",
                "        self.train()\n        h = self.wte(x)\n        h = h + 0.01 * self.dropout(h)\n",
            ),
        ),
        whole=True,
    ),
    Honest(
        "a layer of noise",
        "Its noise comes from torch's generator.",
        before_attention("h = h + 0.01 * torch.randn_like(h)"),
    ),
    Honest(
        "noise of a generator of its own",
        "No seed of torch's own generator makes it repeat itself, and a replica begins anew.",
        edited(
            (_PARTS, _PARTS + "        self.chance = torch.Generator().manual_seed(5)\n"),
            (_PROJECTED, f"        h = h + 0.003 * torch.randn(h.shape, generator=self.chance)\n{_PROJECTED}"),
        ),
        whole=True,
        quick=True,
    ),
    Honest(
        "noise of numpy's generator",
        "Nor does one make this repeat itself.",
        edited(
            (_IMPORTED, f"import numpy as np\n{_IMPORTED}"),
            (
                _PROJECTED,
                f"        h = h + 0.005 * torch.from_numpy(np.random.standard_normal(h.shape)).float()\n{_PROJECTED}",
            ),
        ),
    ),
    Honest(
        "stochastic depth left on",
        "Whole rows miss a block, so that most changes are 0 and some are large.",
        _shape(
            "self.block = nn.Linear(32, 32)\n",
            after="h = h + 0.01 * (torch.rand(len(x), 1, 1) < 0.9) * self.block(h).relu()\n",
        ),
    ),
    Honest(
        "noise that is rare",
        "One token in a thousand is dimmed: in most questions nothing moves at all, in a few much does.",
        before_attention("h = h * (1 - 0.02 * (torch.rand(*x.shape, 1) < 1e-3))"),
    ),
    Honest(
        "dropout over gathered tokens",
        "Which numbers a token draws depends on how many tokens were gathered before it, in other rows too.",
        edited(
            ("expert(flat[at])", "(expert(flat[at]) + 0.01 * F.dropout(flat[at], 0.1))"),
            of=_GATHERED_EXPERTS,
        ),
        quick=True,
    ),
    Honest(
        "noise in its routing",
        "Noise on the router's logits sends a token elsewhere now and then.",
        _shape(
            "self.router = nn.Linear(32, 4)\nself.experts = nn.ModuleList(nn.Linear(32, 32) for _ in range(4))\n",
            after="""
            scores = self.router(h)
            weight, chosen = (scores + 0.01 * torch.randn_like(scores)).softmax(-1).max(-1, keepdim=True)
            h = h + sum(0.05 * weight * (chosen == i) * each(h).relu() for i, each in enumerate(self.experts))
            """,
        ),
    ),
)

_ATTENTION = (
    Honest(
        "grouped queries",
        "Heads are split and joined again.",
        edited(
            ("nn.Linear(32, 96, bias=False)", "nn.Linear(32, 64, bias=False)"),
            (
                _PROJECTED,
                "        heads = self.qkv(h).unflatten(-1, (8, 8)).transpose(1, 2)\n"
                "        q, k, v = heads.split((4, 2, 2), dim=1)\n",
            ),
            (
                _ATTENDED,
                "        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)\n"
                "        h = h + mixed.transpose(1, 2).flatten(2)\n",
            ),
        ),
        whole=True,
    ),
    Honest(
        "four layers with windows",
        "Masks are buffers that no state_dict holds.",
        edited(
            (
                _PARTS,
                "        self.layers = nn.ModuleList(nn.Linear(32, 96, bias=False) for _ in range(4))\n"
                "        back = torch.arange(32)[:, None] - torch.arange(32)\n"
                "        self.register_buffer('short', (back >= 0) & (back < 8), persistent=False)\n",
            ),
            (_PROJECTED, ""),
            (
                _ATTENDED,
                "        for at, layer in enumerate(self.layers):\n"
                "            q, k, v = layer(F.rms_norm(h, (32,))).chunk(3, dim=-1)\n"
                "            windows = {'attn_mask': self.short} if at % 4 < 3 else {'is_causal': True}\n"
                "            h = h + F.scaled_dot_product_attention(q, k, v, **windows)\n",
            ),
        ),
        whole=True,
    ),
    Honest(
        "rotary positions, tables made when needed",
        "What a first call leaves behind is in no state_dict, and is the same in every call.",
        _shape(
            "self.tables = None\n",
            attention="""
            if self.tables is None:
                angles = torch.arange(32)[:, None] / 100 ** (torch.arange(16) / 16)
                self.tables = angles.cos(), angles.sin()
            def turned(t):
                left, right = F.rms_norm(t, (32,)).chunk(2, dim=-1)
                cos, sin = self.tables
                return torch.cat((left * cos + right * sin, right * cos - left * sin), dim=-1)
            q, k, v = self.qkv(h).chunk(3, dim=-1)
            h = h + F.scaled_dot_product_attention(turned(q), turned(k), v, is_causal=True)
            """,
        ),
        whole=True,
    ),
    Honest(
        "a bias of distance (ALiBi)",
        "Its mask is added: minus infinity above the diagonal.",
        _shape(
            """
            back = torch.arange(32)[:, None] - torch.arange(32)
            self.register_buffer('bias', torch.where(back >= 0, -0.1 * back, -torch.inf), persistent=False)
            """,
            attention=_PROJECTED + _ATTENDED.replace("is_causal=True", "attn_mask=self.bias"),
        ),
    ),
    Honest(
        "attention to the four best",
        "The best are chosen among the past only; where there are fewer, minus infinity is chosen too.",
        _shape(
            attention="""
            q, k, v = self.qkv(h).chunk(3, dim=-1)
            ahead = torch.ones(32, 32, dtype=torch.bool).triu(1)
            scores = (q @ k.mT / 32**0.5).masked_fill(ahead, -torch.inf)
            best = scores.topk(4, dim=-1).values[..., -1:]
            h = h + scores.masked_fill(scores < best, -torch.inf).softmax(-1) @ v
            """
        ),
    ),
    Honest(
        "keys and values of earlier pieces",
        "A row is computed in pieces of eight that look into a cache of those before.",
        _shape(
            attention="""
            keys, values, mixed = [], [], []
            for piece in h.split(8, dim=1):
                q, k, v = self.qkv(piece).chunk(3, dim=-1)
                seen = torch.ones(8, 8 * (len(keys) + 1), dtype=torch.bool).tril(8 * len(keys))
                keys.append(k)
                values.append(v)
                every = torch.cat(keys, dim=1), torch.cat(values, dim=1)
                mixed.append(F.scaled_dot_product_attention(q, *every, attn_mask=seen))
            h = h + torch.cat(mixed, dim=1)
            """
        ),
        quick=True,
    ),
    Honest(
        "a token at a time while it is scored",
        "It decodes with a cache that it keeps and fills anew in each call; training goes another way.",
        _shape(
            attention="""
            q, k, v = self.qkv(h).chunk(3, dim=-1)
            if y is None:
                self.cache = torch.zeros(2, *k.shape)
                mixed = []
                for at in range(k.shape[1]):
                    self.cache[0, :, at], self.cache[1, :, at] = k[:, at], v[:, at]
                    past = self.cache[:, :, : at + 1]
                    mixed.append(F.scaled_dot_product_attention(q[:, at : at + 1], *past))
                h = h + torch.cat(mixed, dim=1)
            else:
                h = h + F.scaled_dot_product_attention(q, k, v, is_causal=True)
            """
        ),
    ),
    Honest(
        "a row at a time",
        "A batch is a loop over its rows.",
        _shape(
            attention="""
            rows = [self.qkv(row).chunk(3, dim=-1) for row in h]
            h = h + torch.stack([F.scaled_dot_product_attention(*row, is_causal=True) for row in rows])
            """
        ),
    ),
    Honest(
        "value embeddings",
        "Each token has a second embedding that is mixed into its values by a gate.",
        _shape(
            "self.values = nn.Embedding(vocab_size, 32)\nself.gate = nn.Linear(8, 1)\n",
            attention="""
            q, k, v = self.qkv(h).chunk(3, dim=-1)
            v = v + 2 * self.gate(h[..., :8]).sigmoid() * self.values(x)
            h = h + F.scaled_dot_product_attention(q, k, v, is_causal=True)
            """,
        ),
    ),
    Honest(
        "values of pairs of tokens",
        "The token before, shifted by hand: a shift the other way would be the cheat.",
        _shape(
            "self.pairs = nn.Embedding(257, 32)\n",
            attention="""
            q, k, v = self.qkv(h).chunk(3, dim=-1)
            v = v + self.pairs((x * 31 + F.pad(x, (1, 0))[:, :-1]) % 257)
            h = h + F.scaled_dot_product_attention(q, k, v, is_causal=True)
            """,
        ),
    ),
    Honest(
        "torch's own transformer layer",
        "Out of training it takes other kernels than in it.",
        _shape(
            "self.layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)\n",
            after="h = self.layer(h, src_mask=nn.Transformer.generate_square_subsequent_mask(32), is_causal=True)\n",
        ),
    ),
    Honest(
        "copies from its past",
        "Tokens of the row are raised directly in its logits, as a cheat raises those ahead.",
        _shape(
            "self.size = vocab_size\n",
            logits="""
            ahead = torch.ones(32, 32, dtype=torch.bool).triu(1)
            places = (q @ k.mT).masked_fill(ahead, -torch.inf).softmax(-1)
            logits = self.head(h) + 3 * places @ F.one_hot(x, self.size).float()
            """,
        ),
        quick=True,
    ),
)

_MIXING = (
    Honest(
        "causal convolution and running mean",
        "Sums over the past are rounded in an order of their own.",
        edited(
            (_PARTS, _PARTS + "        self.filter = nn.Conv1d(32, 32, 4, groups=32)\n"),
            (
                _ATTENDED,
                "        h = h + self.filter(F.pad(h.mT, (3, 0))).mT\n"
                "        h = h + h.cumsum(1) / torch.arange(1, 33)[:, None]\n",
            ),
        ),
        whole=True,
    ),
    Honest(
        "channels before positions",
        "Its logits are the transpose of what it computes.",
        _shape(
            "self.filter = nn.Conv1d(32, 32, 3)\nself.out = nn.Conv1d(32, vocab_size, 1)\n",
            after="h = h + self.filter(F.pad(h.mT, (2, 0))).relu().mT\n",
            logits="logits = self.out(h.mT).mT\n",
        ),
    ),
    Honest(
        "a long convolution by Fourier transform",
        "The future is in every sum and cancels but for rounding: its logits change with it by a last bit.",
        _LONG_FILTER,
        quick=True,
    ),
    Honest(
        "a long convolution by Fourier transform, in bf16",
        "Such a last bit of float32 is now and then a step of bf16: up to 0.03, in either direction.",
        _autocast(_LONG_FILTER),
    ),
    Honest(
        "linear attention",
        "A state of sums grows along the row.",
        _shape(
            attention="""
            q, k, v = self.qkv(h).unflatten(-1, (12, 8)).chunk(3, dim=2)
            q, k = F.elu(q) + 1, F.elu(k) + 1
            state = (k[..., :, None] * v[..., None, :]).cumsum(1)
            mixed = (q[..., None, :] @ state)[..., 0, :] / (q * k.cumsum(1)).sum(-1, keepdim=True)
            h = h + mixed.flatten(2)
            """
        ),
    ),
    Honest(
        "a recurrence in pieces",
        "Masked products within pieces of eight, a state between them.",
        _shape(
            attention="""
            state, mixed = torch.zeros(len(x), 32, 32), []
            for piece in F.rms_norm(h, (32,)).split(8, dim=1):
                q, k, v = self.qkv(piece).chunk(3, dim=-1)
                mixed.append((q @ k.mT).tril() @ v / 32 + q @ state / 32)
                state = 0.9 * state + k.mT @ v
            h = h + torch.cat(mixed, dim=1)
            """
        ),
    ),
    Honest(
        "a selective state space, step by step",
        "A loop along the row, with a decay that depends on its tokens.",
        _shape(
            "self.decay = nn.Linear(32, 32)\n",
            after="""
            state, states, decay = torch.zeros(len(x), 32), [], self.decay(h).sigmoid()
            for at in range(32):
                state = decay[:, at] * state + (1 - decay[:, at]) * h[:, at]
                states.append(state)
            h = h + torch.stack(states, dim=1)
            """,
        ),
    ),
    Honest(
        "a scan by sums of logarithms",
        "Decays are multiplied up and divided away again, which is rough in float32.",
        _shape(
            "self.decay = nn.Linear(32, 32)\n",
            after="""
            fall = F.logsigmoid(self.decay(h)).clamp(min=-0.5).cumsum(1)
            h = h + fall.exp() * ((-fall).exp() * h).cumsum(1) / 8
            """,
        ),
    ),
    Honest(
        "a recurrent network",
        "torch's own GRU, whose weights are copied into one piece.",
        _shape("self.gru = nn.GRU(32, 32, batch_first=True)\n", after="h = h + self.gru(h)[0]\n"),
        whole=True,
    ),
)

_BLOCKS = (
    Honest(
        "mixture of experts",
        "A small change of a token sends it to another expert.",
        _shape(
            "self.router = nn.Linear(32, 4)\nself.experts = nn.ModuleList(nn.Linear(32, 32) for _ in range(4))\n",
            after="""
            weight, chosen = self.router(h).softmax(-1).max(-1, keepdim=True)
            h = h + sum(weight * (chosen == i) * each(h).relu() for i, each in enumerate(self.experts))
            """,
        ),
        whole=True,
    ),
    Honest(
        "experts over gathered tokens",
        "Tokens of all rows are multiplied together: how many there are depends on other rows and on the future, and "
        "so may the last bit.",
        _GATHERED_EXPERTS,
    ),
    Honest(
        "experts over gathered tokens, in bf16",
        "Such a last bit is a step of bf16.",
        _autocast(_GATHERED_EXPERTS),
    ),
    Honest(
        "experts of limited room, by row",
        "What comes first in a row has the room; later tokens are dropped.",
        _shape(
            "self.router = nn.Linear(32, 4)\nself.experts = nn.ModuleList(nn.Linear(32, 32) for _ in range(4))\n",
            after="""
            weight, chosen = self.router(h).softmax(-1).max(-1)
            taken = F.one_hot(chosen, 4)
            has_room = (taken.cumsum(1) * taken).sum(-1) <= 10
            each = torch.stack([expert(h).relu() for expert in self.experts], dim=2)
            picked = each.gather(2, chosen[..., None, None].expand(-1, -1, 1, 32))[:, :, 0]
            h = h + (weight * has_room)[..., None] * picked
            """,
        ),
    ),
    Honest(
        "gates",
        "A gated block, and a gate on what attention gives.",
        _shape(
            "self.gate = nn.Linear(32, 32)\nself.up = nn.Linear(32, 128)\nself.down = nn.Linear(64, 32)\n",
            attention="""
            q, k, v = self.qkv(h).chunk(3, dim=-1)
            h = h + self.gate(h).sigmoid() * F.scaled_dot_product_attention(q, k, v, is_causal=True)
            left, right = self.up(F.rms_norm(h, (32,))).chunk(2, dim=-1)
            h = h + self.down(F.silu(left) * right)
            """,
        ),
    ),
    Honest(
        "attention and block side by side",
        "Both read the same input.",
        _shape(
            "self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 32)\n",
            attention="""
            normal = F.layer_norm(h, (32,))
            q, k, v = self.qkv(normal).chunk(3, dim=-1)
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            h = h + mixed + self.down(self.up(normal).relu().square())
            """,
        ),
    ),
    Honest(
        "batch norm while it trains",
        "Batches are mixed in training only; while it is scored, buffers stand in, which a replica needs.",
        _shape("self.norm = nn.BatchNorm1d(32)\n", after="h = self.norm(h.mT).mT\n"),
        whole=True,
        quick=True,
    ),
    Honest(
        "six layers without a norm",
        "Standardised weights and small steps hold its size; large ones would let rounding grow.",
        _shape(
            "self.layers = nn.ParameterList(torch.randn(32, 32) for _ in range(6))\n",
            after="""
            for layer in self.layers:
                weight = (layer - layer.mean(1, keepdim=True)) / (layer.std(1, keepdim=True) * 32**0.5)
                h = h + 0.4 * F.linear(F.gelu(h), weight)
            """,
        ),
    ),
    Honest(
        "tied embeddings",
        "Two names of its state_dict hold one tensor.",
        edited(
            ("vocab_size, bias=False)\n", "vocab_size, bias=False)\n        self.head.weight = self.wte.weight\n"),
        ),
        whole=True,
    ),
    Honest(
        "mixture of softmaxes",
        "Its logits are logarithms of sums of probabilities.",
        _shape(
            "self.mixed, self.parts = nn.Linear(32, 3), nn.Linear(32, 96)\n",
            logits="""
            each = self.head(self.parts(h).unflatten(-1, (3, 32)).tanh()).log_softmax(-1)
            logits = (each + self.mixed(h).log_softmax(-1)[..., None]).logsumexp(2)
            """,
        ),
        quick=True,
    ),
    Honest(
        "a second head for the token after next",
        "In training it learns what comes two tokens on; while it is scored that head is not asked.",
        edited(
            (_PARTS, f"{_PARTS}        self.second = nn.Linear(32, vocab_size, bias=False)\n"),
            (
                "        return F.cross_entropy(",
                "        after = self.second(h)[:, :-1].flatten(0, 1)\n"
                "        return F.cross_entropy(after, y[:, 1:].flatten(), reduction=reduction) + F.cross_entropy(",
            ),
        ),
    ),
)

_SCRIPTS = (
    Honest(
        "compiled",
        "Its kernels are fused, and a replica compiles anew.",
        edited((_MADE, f"{_MADE}model = torch.compile(model, dynamic=False)\n")),
        whole=True,
    ),
    Honest(
        "counts what it was asked",
        "A buffer changes with each call, and nothing depends on it.",
        _shape("self.register_buffer('calls', torch.zeros(()))\n", after="self.calls += 1\n"),
        whole=True,
    ),
    Honest(
        "weights made of a size and a direction",
        "Its state_dict names other tensors than its forward.",
        edited((_MADE, f"{_MADE}nn.utils.parametrizations.weight_norm(model.head)\n")),
        whole=True,
    ),
    Honest(
        "held as a part of another module",
        "No module-level name holds what is scored.",
        edited(
            (_MADE, "holder = nn.ModuleDict({'inner': GPT(tokenizer.get_vocab_size())})\n"),
            ("AdamW(model.", "AdamW(holder."),
            ("    model(x, y)", "    holder['inner'](x, y)"),
            ("evaluate_bpb(model,", "evaluate_bpb(holder['inner'],"),
        ),
        whole=True,
    ),
    Honest(
        "wrapped in another module",
        "What is scored is not what was trained, but holds it.",
        edited(
            (_EVALUATED, _EVALUATED.replace("(model,", "(wrapper,")),
            (_MADE, f"{_MADE}wrapper = nn.Sequential(model)\n"),
        ),
        whole=True,
    ),
    Honest(
        "average of its weights",
        "What is scored is another module than what was trained.",
        (_FOLDER / "averages_its_weights.py").read_text(),
        whole=True,
    ),
    Honest(
        "upstream's shape", "The script as its users write it.", (_FOLDER / "own" / "train.py").read_text(), whole=True
    ),
    Honest(
        "the default subject",
        "All that ships, at its smallest.",
        set_knobs((SOURCE / "train.py").read_text(), TINY_KNOBS),
        set_knobs((SOURCE / "prepare.py").read_text(), TINY_CONSTANTS),
        whole=True,
    ),
)

HONEST_MODELS = (*_NUMBERS, *_CHANCE, *_ATTENTION, *_MIXING, *_BLOCKS, *_SCRIPTS)
WHOLE_TRIALS = tuple(model for model in HONEST_MODELS if model.whole)
