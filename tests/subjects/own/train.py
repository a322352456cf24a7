"""The field's script in miniature: its own seed, its own clock with uncounted steps, knobs, a summary."""

import math
import time

import torch
import torch.nn.functional as F  # noqa: N812 - as the field writes it
from prepare import LONGEST_WORD, MAX_SEQ_LEN, TIME_BUDGET, Tokenizer, evaluate_bpb, make_dataloader
from torch import nn

DEVICE_BATCH_SIZE = 8
MATRIX_LR = 0.01  # range 0.001..0.1 log
ADAM_BETAS = (0.8, 0.95)

t_start = time.time()
torch.manual_seed(42)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")


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
model = GPT(tokenizer.get_vocab_size()).to(device)
optimizer = torch.optim.AdamW(model.parameters(), lr=MATRIX_LR, betas=ADAM_BETAS)
if torch.cuda.is_available():
    model = torch.compile(model, dynamic=False)
train_loader = make_dataloader(tokenizer, DEVICE_BATCH_SIZE, MAX_SEQ_LEN, "train")
x, y, epoch = next(train_loader)
total_training_time, step = 0.0, 0
while True:
    t0 = time.time()
    loss = model(x, y)
    loss.backward()
    optimizer.step()
    model.zero_grad(set_to_none=True)
    x, y, epoch = next(train_loader)
    if math.isnan(loss.item()) or loss.item() > 100:
        print("FAIL")
        exit(1)  # noqa: PLR1722
    dt = time.time() - t0
    if step > 10:
        total_training_time += dt
    progress = min(total_training_time / TIME_BUDGET, 1.0)
    print(f"\rstep {step:05d} ({100 * progress:.1f}%) | loss: {loss.item():.6f} | lrm: 1.00    ", end="", flush=True)
    step += 1
    if step > 10 and total_training_time >= TIME_BUDGET:
        break
print()
model.eval()
val_bpb = evaluate_bpb(model, tokenizer, DEVICE_BATCH_SIZE)
print("---")
print(f"val_bpb:          {val_bpb:.6f}")
print(f"training_seconds: {total_training_time:.1f}")
print(f"total_seconds:    {time.time() - t_start:.1f}")
print(f"num_steps:        {step}")
print(f"longest_word:     {LONGEST_WORD}")
