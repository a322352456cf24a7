"""The smallest honest subject: a bigram table trained by hand-written descent, so that it starts fast."""

import torch
from prepare import MAX_SEQ_LEN, Tokenizer, evaluate_bpb, make_dataloader, progress
from torch import nn

tokenizer = Tokenizer.from_directory()
torch.manual_seed(7)


class Bigrams(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.table = nn.Parameter(torch.randn(vocab_size, vocab_size) * 0.1)

    def forward(self, x, y=None, reduction="mean"):
        logits = self.table[x]
        if y is None:
            return logits
        return nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction=reduction)


model = Bigrams(tokenizer.get_vocab_size())
batches = make_dataloader(tokenizer, 8, MAX_SEQ_LEN, "train")
x, y, epoch = next(batches)
step = 0
while (share := progress()) < 1:
    loss = model(x, y)
    loss.backward()
    with torch.no_grad():
        model.table -= 20.0 * model.table.grad
    model.table.grad = None
    print(f"step {step:05d} ({100 * share:.1f}%) | loss: {loss.item():.6f} | lrm: 1.00", end="\r")
    x, y, epoch = next(batches)
    step += 1
val_bpb = evaluate_bpb(model, tokenizer, 8)
print("---")
print(f"val_bpb:          {val_bpb:.6f}")
print("training_seconds: —")
print(f"num_steps:        {step}")
print(f"num_params_M:     {model.table.numel() / 1e6:.6f}")
