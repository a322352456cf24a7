"""The field's script in miniature, unedited: sets its seed, times itself against TIME_BUDGET, knows no progress()."""

import math
import time

import torch
import torch.nn.functional as F  # noqa: N812 - as the field writes it
from prepare import MAX_SEQ_LEN, TIME_BUDGET, Tokenizer, evaluate_bpb, make_dataloader
from torch import nn

t_start = time.time()
torch.manual_seed(42)


class GPT(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.wte = nn.Embedding(vocab_size, 32)
        self.lm_head = nn.Linear(32, vocab_size, bias=False)

    def forward(self, idx, targets=None, reduction="mean"):
        logits = 15 * torch.tanh(self.lm_head(self.wte(idx)).float() / 15)
        if targets is None:
            return logits
        return F.cross_entropy(logits.view(-1, logits.size(-1)), targets.reshape(-1), reduction=reduction)


tokenizer = Tokenizer.from_directory()
model = GPT(tokenizer.get_vocab_size())
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
train_loader = make_dataloader(tokenizer, 8, MAX_SEQ_LEN, "train")
x, y, epoch = next(train_loader)
total_training_time, step, losses = 0.0, 0, None
while True:
    t0 = time.time()
    losses = model(x, y, reduction="none")
    losses.mean().backward()
    optimizer.step()
    model.zero_grad(set_to_none=True)
    x, y, epoch = next(train_loader)
    if math.isnan(losses.mean().item()):
        print("FAIL")
        exit(1)  # noqa: PLR1722
    dt = time.time() - t0
    if step > 10:
        total_training_time += dt
    progress = min(total_training_time / TIME_BUDGET, 1.0)
    print(f"\rstep {step:05d} ({100 * progress:.1f}%) | loss: {losses.mean().item():.6f} | lrm: 1.00    ", end="")
    step += 1
    if step > 10 and total_training_time >= TIME_BUDGET:
        break
print()
model.eval()
val_bpb = evaluate_bpb(model, tokenizer, 128)
print("---")
print(f"val_bpb:          {val_bpb:.6f}")
print(f"training_seconds: {total_training_time:.1f}")
print(f"total_seconds:    {time.time() - t_start:.1f}")
print(f"num_steps:        {step}")
