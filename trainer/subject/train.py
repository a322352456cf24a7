"""Trains a GPT for a fixed time; the only file to edit. The goal is the lowest val_bpb. Run: python train.py"""

import contextlib
import gc
import math
import os
import sys
import time

os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")  # less lost to fragments

import torch
import torch.nn as nn
import torch.nn.functional as F
from prepare import MAX_SEQ_LEN, TIME_BUDGET, Tokenizer, evaluate_bpb, make_dataloader, peak_flops, progress

STARTED = time.perf_counter()
CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
UNCOUNTED_STEPS = 10 if CUDA else 0  # they cover compilation
if CUDA:
    from prepare import warm_evaluation
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

# ---------------------------------------------------------------------------------------------------------------------
# Knobs: one literal a line, with the range that an optimiser may search at the end of its comment
# ---------------------------------------------------------------------------------------------------------------------

# Shape of the model
DEPTH = 8  # layers; range 2..24
ASPECT_RATIO = 64  # width = DEPTH * ASPECT_RATIO, rounded up to a multiple of HEAD_DIM; range 32..128
HEAD_DIM = 128  # width of an attention head; range 2**4..2**8 pow2
WINDOW_PATTERN = "SSSL"  # S = half, L = all of the context, over the layers; one of SSSL SSLL SLSL LLLL SSSS LSSL L
ROPE_BASE = 10000  # base of the rotary frequencies; range 1000..1000000 log
SOFTCAP = 15  # logits are squashed into -SOFTCAP..SOFTCAP
GATE_CHANNELS = 32  # channels of the input that gate the value embeddings

# Batch
DEVICE_BATCH_SIZE = 128  # rows in one forward pass; halve it when out of memory; range 2**2..2**8 pow2
TOTAL_BATCH_SIZE = 2**19  # tokens a step, n * DEVICE_BATCH_SIZE * MAX_SEQ_LEN; range 2**10..2**21 pow2

# Optimiser
EMBEDDING_LR = 0.6  # token and value embeddings (AdamW); range 0.01..2 log
UNEMBEDDING_LR = 0.004  # output head (AdamW); range 0.0005..0.05 log
MATRIX_LR = 0.04  # all other matrices (Muon); range 0.005..0.2 log
SCALAR_LR = 0.5  # scalars of the residual stream (AdamW); range 0.05..2 log
WEIGHT_DECAY = 0.2  # cautious decay of the matrices, falls to 0 over the budget; range 0..0.5
ADAM_BETAS = (0.8, 0.95)  # AdamW
MUON_MOMENTUM = (0.85, 0.95, 300)  # first value, last value, steps between them
MUON_BETA2 = 0.95  # second moment per neuron
ORTHOGONAL_STEPS = 5  # iterations of the orthogonalisation, at most 5

# Schedule, in shares of the time budget
WARMUP_RATIO = 0.0  # learning rates rise from 0; range 0..0.3
WARMDOWN_RATIO = 0.5  # learning rates fall to FINAL_LR_FRAC; range 0.1..0.8
FINAL_LR_FRAC = 0.0  # learning rates at the end, as a share of the full ones; range 0..0.2

# ---------------------------------------------------------------------------------------------------------------------
# Model
# ---------------------------------------------------------------------------------------------------------------------


def norm(x):
    """RMSNorm without weights over the last dimension."""
    return F.rms_norm(x, (x.size(-1),)).type_as(x) if CUDA else EagerNorm.apply(x)


def relu_squared(x):
    return F.relu(x).square() if CUDA else EagerReluSquared.apply(x)


class EagerNorm(torch.autograd.Function):
    """The same numbers as F.rms_norm with half the passes over memory, which is what a CPU step waits for."""

    @staticmethod
    def forward(ctx, x):
        mean_square = torch.linalg.vecdot(x, x).unsqueeze(-1) / x.size(-1)
        scale = mean_square.add_(torch.finfo(x.dtype).eps).rsqrt_()
        normed = x * scale
        ctx.save_for_backward(normed, scale)
        return normed

    @staticmethod
    def backward(ctx, grad):
        normed, scale = ctx.saved_tensors
        along = torch.linalg.vecdot(grad, normed).unsqueeze(-1)
        return torch.addcmul(grad, normed, along, value=-1 / grad.size(-1)).mul_(scale)


class EagerReluSquared(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        positive = F.relu(x)
        ctx.save_for_backward(positive)
        return positive.square()

    @staticmethod
    def backward(ctx, grad):
        (positive,) = ctx.saved_tensors
        return (grad * positive).mul_(2)


def rotate(x, cos, sin):
    """Rotary position embedding of x (B, T, heads, HEAD_DIM)."""
    return x * cos + x.roll(x.size(-1) // 2, dims=-1) * sin


def half_context(b, h, q, k):
    """True where query position q may look at key position k in an S layer."""
    return (q >= k) & (q - k < MAX_SEQ_LEN // 2)


def make_window():
    """What restricts an S layer: a block mask for flex attention on CUDA, a plain mask elsewhere."""
    if CUDA:
        return create_block_mask(half_context, None, None, MAX_SEQ_LEN, MAX_SEQ_LEN, device="cuda")
    position = torch.arange(MAX_SEQ_LEN)
    return half_context(None, None, position[:, None], position[None, :])


def attend(q, k, v, window):
    """Causal attention of (B, heads, T, HEAD_DIM) tensors; window None is the whole context."""
    if window is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    if CUDA:  # skips the blocks outside the window; T must be MAX_SEQ_LEN
        return flex_attention(q, k, v, block_mask=window)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=window[: q.size(2), : q.size(2)])


class Attention(nn.Module):
    def __init__(self, width, has_values):
        super().__init__()
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.attn_out = nn.Linear(width, width, bias=False)
        self.gate = nn.Linear(GATE_CHANNELS, width // HEAD_DIM, bias=False) if has_values else None

    def forward(self, x, values, cos, sin, window):
        B, T, width = x.shape
        q = self.query(x).view(B, T, -1, HEAD_DIM)
        k = self.key(x).view(B, T, -1, HEAD_DIM)
        v = self.value(x).view(B, T, -1, HEAD_DIM)
        if self.gate is not None:  # the layer's own value embedding, as strongly as the input asks for
            strength = 2 * torch.sigmoid(self.gate(x[..., :GATE_CHANNELS]))
            v = v + strength.unsqueeze(-1) * values.view(B, T, -1, HEAD_DIM)
        q = norm(rotate(q, cos, sin)).type_as(v)
        k = norm(rotate(k, cos, sin)).type_as(v)
        heads = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), window)
        return self.attn_out(heads.transpose(1, 2).reshape(B, T, width))


class MLP(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.mlp_in = nn.Linear(width, 4 * width, bias=False)
        self.mlp_out = nn.Linear(4 * width, width, bias=False)

    def forward(self, x):
        return self.mlp_out(relu_squared(self.mlp_in(x)))


class Block(nn.Module):
    def __init__(self, width, has_values):
        super().__init__()
        self.attention = Attention(width, has_values)
        self.mlp = MLP(width)

    def forward(self, x, values, cos, sin, window):
        x = x + self.attention(norm(x), values, cos, sin, window)
        return x + self.mlp(norm(x))


class GPT(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        width = math.ceil(DEPTH * ASPECT_RATIO / HEAD_DIM) * HEAD_DIM
        self.windows = [WINDOW_PATTERN[i % len(WINDOW_PATTERN)] for i in range(DEPTH - 1)] + ["L"]
        with_values = [i for i in range(DEPTH) if i % 2 == (DEPTH - 1) % 2]
        self.embedding = nn.Embedding(vocab_size, width)
        self.value_embeddings = nn.ModuleDict({str(i): nn.Embedding(vocab_size, width) for i in with_values})
        self.blocks = nn.ModuleList([Block(width, i in with_values) for i in range(DEPTH)])
        self.head = nn.Linear(width, vocab_size, bias=False)
        self.resid_scale = nn.Parameter(torch.ones(DEPTH))
        self.input_scale = nn.Parameter(torch.full((DEPTH,), 0.1))
        self.window = make_window() if "S" in self.windows else None
        angles = torch.outer(torch.arange(MAX_SEQ_LEN), ROPE_BASE ** -(torch.arange(0, HEAD_DIM, 2) / HEAD_DIM))
        self.register_buffer("cos", torch.cat([angles.cos(), angles.cos()], dim=1)[:, None, :], persistent=False)
        self.register_buffer("sin", torch.cat([angles.sin(), -angles.sin()], dim=1)[:, None, :], persistent=False)

    @torch.no_grad()
    def initialise(self):
        """Start values; output projections and gates at 0, so that every block starts as the identity."""
        bound = (3 / self.embedding.embedding_dim) ** 0.5
        nn.init.normal_(self.embedding.weight)
        nn.init.normal_(self.head.weight, std=0.001)
        for table in self.value_embeddings.values():
            nn.init.uniform_(table.weight, -bound, bound)
        for name, weight in self.blocks.named_parameters():
            if "_out" in name or "gate" in name:
                nn.init.zeros_(weight)
            else:
                nn.init.uniform_(weight, -bound, bound)
        if CUDA:  # half the memory; the residual stream follows the tables into bf16
            self.embedding.bfloat16()
            self.value_embeddings.bfloat16()

    def flops_per_token(self):
        """Operations of a forward and a backward pass."""
        tables = sum(p.numel() for p in [self.embedding.weight, *self.value_embeddings.parameters()])
        seen = sum(MAX_SEQ_LEN // 2 if window == "S" else MAX_SEQ_LEN for window in self.windows)
        matrices = sum(p.numel() for p in self.parameters()) - tables
        return 6 * matrices + 12 * self.embedding.embedding_dim * seen

    def forward(self, x, y=None, reduction="mean"):
        """Logits (B, T, vocabulary); with targets y their cross entropy: the mean, or one per token ("none", flat)."""
        T = x.size(1)
        cos, sin = self.cos[:T], self.sin[:T]
        stream = start = norm(self.embedding(x))
        for i, block in enumerate(self.blocks):
            values = self.value_embeddings[str(i)](x) if str(i) in self.value_embeddings else None
            stream = self.resid_scale[i] * stream + self.input_scale[i] * start
            stream = block(stream, values, cos, sin, self.window if self.windows[i] == "S" else None)
        logits = SOFTCAP * self.head(norm(stream) / SOFTCAP).float().tanh_()  # 0-1 copies of the largest tensor, not 2
        if y is None:
            return logits
        return F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction=reduction)


# ---------------------------------------------------------------------------------------------------------------------
# Optimiser: Muon for the matrices inside the blocks, AdamW for everything else
# ---------------------------------------------------------------------------------------------------------------------

POLAR_EXPRESS = [  # coefficients of the odd polynomials, published with the method (arXiv 2505.16932)
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
]


def orthogonalise(matrices):
    """The nearest orthogonal matrix to each of a stack (n, rows, columns), roughly: singular values near 1."""
    X = matrices.bfloat16() if CUDA else matrices
    tall = X.size(-2) > X.size(-1)
    X = X.mT if tall else X
    X = X / (X.norm(dim=(-2, -1), keepdim=True) * 1.02 + 1e-6)
    for a, b, c in POLAR_EXPRESS[:ORTHOGONAL_STEPS]:
        A = X @ X.mT
        A = torch.baddbmm(A, A, A, beta=b, alpha=c)
        X = torch.baddbmm(X, A, X, beta=a)
    return (X.mT if tall else X).float()


def adamw_update(weight, grad, mean, square, beta1, beta2, lr, correction1, correction2):
    mean.lerp_(grad, 1 - beta1)
    square.lerp_(grad.square(), 1 - beta2)
    weight.sub_(lr / correction1 * mean / ((square / correction2).sqrt() + 1e-10))


def muon_update(weights, grads, mean, square, momentum, lr, decay):
    """New weights of a stack (n, rows, columns) of equal matrices."""
    mean.mul_(momentum).add_(grads * (1 - momentum))
    step = orthogonalise(grads * (1 - momentum) + mean * momentum)
    neurons = -1 if step.size(-2) >= step.size(-1) else -2
    length = step.norm(dim=(-2, -1), keepdim=True)
    square.lerp_(step.square().mean(dim=neurons, keepdim=True), 1 - MUON_BETA2)
    step = step * square.clamp_min(1e-10).rsqrt()
    step = step * (length / step.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-10))
    cautious = step * weights >= 0  # decay only what the step shrinks anyway
    return weights - lr * (step + decay * weights * cautious)


class Optimizer:
    """Our own plain class: the first torch.optim.Optimizer of a process takes 1.5 s to import its machinery."""

    def __init__(self, model):
        scale = (model.embedding.embedding_dim / 768) ** -0.5
        adam_groups = [
            (model.embedding.parameters(), EMBEDDING_LR * scale, ADAM_BETAS),
            (model.value_embeddings.parameters(), EMBEDDING_LR * scale, ADAM_BETAS),
            (model.head.parameters(), UNEMBEDDING_LR * scale, ADAM_BETAS),
            ([model.resid_scale], SCALAR_LR * 0.01, ADAM_BETAS),
            ([model.input_scale], SCALAR_LR, (0.96, ADAM_BETAS[1])),
        ]
        self.adam = [
            (weight, torch.zeros_like(weight), torch.zeros_like(weight), lr, betas)
            for weights, lr, betas in adam_groups
            for weight in weights
        ]
        by_shape = {}
        for matrix in model.blocks.parameters():
            by_shape.setdefault(matrix.shape, []).append(matrix)
        self.muon = []
        for (rows, columns), matrices in by_shape.items():
            mean = torch.zeros(len(matrices), rows, columns, device=DEVICE)
            square = torch.zeros(len(matrices), *((rows, 1) if rows >= columns else (1, columns)), device=DEVICE)
            self.muon.append((matrices, mean, square, MATRIX_LR * max(1, rows / columns) ** 0.5))
        self.steps = 0

    @torch.no_grad()
    def step(self, lr_factor, decay):
        """One step at `lr_factor` of the learning rates, then the gradients are dropped."""
        self.steps += 1
        first, last, warmup_steps = MUON_MOMENTUM
        momentum = first + (last - first) * min(1, (self.steps - 1) / warmup_steps)
        for weight, adam_mean, adam_square, adam_lr, (beta1, beta2) in self.adam:
            corrections = number(1 - beta1**self.steps), number(1 - beta2**self.steps)
            adamw_update(
                weight, weight.grad, adam_mean, adam_square, beta1, beta2, number(adam_lr * lr_factor), *corrections
            )
            weight.grad = None
        for matrices, muon_mean, muon_square, muon_lr in self.muon:
            grads = torch.stack([matrix.grad for matrix in matrices])
            stacked = torch.stack(matrices)
            updated = muon_update(
                stacked, grads, muon_mean, muon_square, number(momentum), number(muon_lr * lr_factor), number(decay)
            )
            for matrix, new in zip(matrices, updated, strict=True):
                matrix.copy_(new)
                matrix.grad = None


number = float
if CUDA:  # compiled once: what changes from step to step must be a tensor
    number = torch.tensor
    adamw_update = torch.compile(adamw_update, dynamic=False, fullgraph=True)
    muon_update = torch.compile(muon_update, dynamic=False, fullgraph=True)

# ---------------------------------------------------------------------------------------------------------------------
# Schedule, in shares of the time budget
# ---------------------------------------------------------------------------------------------------------------------


def shown(value, form, unit=""):
    """A figure as text, an em dash where there is none."""
    return "—" if value is None else f"{value:{form}}{unit}"


def lr_multiplier(share):
    """Of the learning rates, when `share` (0..1) of the budget is used."""
    if share < WARMUP_RATIO:
        return share / WARMUP_RATIO
    if share < 1 - WARMDOWN_RATIO:
        return 1.0
    left = (1 - share) / WARMDOWN_RATIO
    return left + (1 - left) * FINAL_LR_FRAC


# ---------------------------------------------------------------------------------------------------------------------
# Set-up
# ---------------------------------------------------------------------------------------------------------------------

torch.manual_seed(int(os.environ.get("OVERNIGHT_SEED", "42")))
torch.set_float32_matmul_precision("high")
AUTOCAST = torch.autocast("cuda", torch.bfloat16) if CUDA else contextlib.nullcontext()

MICRO_TOKENS = DEVICE_BATCH_SIZE * MAX_SEQ_LEN
assert TOTAL_BATCH_SIZE % MICRO_TOKENS == 0, (
    f"TOTAL_BATCH_SIZE {TOTAL_BATCH_SIZE} is not a multiple of DEVICE_BATCH_SIZE * MAX_SEQ_LEN = {MICRO_TOKENS}"
)
ACCUMULATION = TOTAL_BATCH_SIZE // MICRO_TOKENS

tokenizer = Tokenizer.from_directory()
with DEVICE:
    model = GPT(tokenizer.get_vocab_size())
model.initialise()
num_params = sum(p.numel() for p in model.parameters())
flops_per_token = model.flops_per_token()
optimizer = Optimizer(model)
if CUDA:
    model = torch.compile(model, dynamic=False)
peak = peak_flops(torch.cuda.get_device_name()) if CUDA else None
print(f"{num_params / 1e6:.2f} M parameters, {TOTAL_BATCH_SIZE} tokens a step, {ACCUMULATION} forward passes a step")
print(f"Time budget: {TIME_BUDGET:g}s")

# ---------------------------------------------------------------------------------------------------------------------
# Training
# ---------------------------------------------------------------------------------------------------------------------

loader = make_dataloader(tokenizer, DEVICE_BATCH_SIZE, MAX_SEQ_LEN, "train")
gc.collect()
step, smooth_loss, counted_s, mfu = 0, 0.0, 0.0, None

while (share := progress()) < 1:
    step_started = time.perf_counter()
    loss = 0.0
    for _ in range(ACCUMULATION):
        x, y, epoch = next(loader)
        with AUTOCAST:
            micro_loss = model(x, y) / ACCUMULATION
        micro_loss.backward()
        loss += micro_loss.detach()
    lrm = lr_multiplier(share)
    optimizer.step(lrm, WEIGHT_DECAY * (1 - share))
    loss = loss.item()
    if not loss <= 100:  # also true of NaN
        print(f"\nFAIL: loss is {loss} at step {step}")
        sys.exit(1)
    if CUDA and step == 0:  # compiles the evaluation while no time is counted
        with AUTOCAST:
            warm_evaluation(model, DEVICE_BATCH_SIZE)
    if step == 0:  # a later collection would walk everything made so far and stall a step
        gc.freeze()
        gc.disable()

    step_s = time.perf_counter() - step_started
    if step >= UNCOUNTED_STEPS:
        counted_s += step_s
        done = flops_per_token * TOTAL_BATCH_SIZE * (step + 1 - UNCOUNTED_STEPS)
        mfu = peak and 100 * done / counted_s / peak
    smooth_loss += 0.1 * (loss - smooth_loss)
    print(
        f"\rstep {step:05d} ({100 * share:.1f}%) | loss: {smooth_loss / (1 - 0.9 ** (step + 1)):.6f} | lrm: {lrm:.2f}"
        f" | dt: {1000 * step_s:.0f}ms | tok/sec: {TOTAL_BATCH_SIZE / step_s:,.0f} | mfu: {shown(mfu, '.1f', '%')}"
        f" | epoch: {epoch} | remaining: {TIME_BUDGET * (1 - share):.0f}s   ",
        end="" if step % 50 else "\n",
        flush=True,
    )
    step += 1

# ---------------------------------------------------------------------------------------------------------------------
# Evaluation and summary
# ---------------------------------------------------------------------------------------------------------------------

model.eval()
with AUTOCAST:
    val_bpb = evaluate_bpb(model, tokenizer, DEVICE_BATCH_SIZE)

print("\n---")
print(f"val_bpb:          {val_bpb:.6f}")
print(f"training_seconds: {counted_s:.1f}")
print(f"total_seconds:    {time.perf_counter() - STARTED:.1f}")
print(f"peak_vram_mb:     {shown(torch.cuda.max_memory_allocated() / 2**20 if CUDA else None, '.1f')}")
print(f"mfu_percent:      {shown(mfu, '.2f')}")
print(f"total_tokens_M:   {step * TOTAL_BATCH_SIZE / 1e6:.1f}")
print(f"num_steps:        {step}")
print(f"num_params_M:     {num_params / 1e6:.1f}")
print(f"depth:            {DEPTH}")
