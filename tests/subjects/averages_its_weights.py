"""Honest: what is scored is an average of the weights on the way, in another module than the one that trained, in
half precision by autocast, with dropout left on."""

import copy

import torch
from prepare import Tokenizer, evaluate_bpb, make_dataloader
from torch import nn


class Small(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.wte = nn.Embedding(vocab_size, 32, _weight=0.1 * torch.randn(vocab_size, 32))
        self.head = nn.Linear(32, vocab_size, bias=False)

    def forward(self, x):
        hidden = nn.functional.dropout(self.wte(x), 0.02, training=True)
        return self.head(hidden).float()


tokenizer = Tokenizer.from_directory()
model = Small(tokenizer.get_vocab_size())
averaged = copy.deepcopy(model)
batches = make_dataloader(tokenizer, 8, 32, "train")
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
for _ in range(10):
    x, y, epoch = next(batches)
    nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten()).backward()
    optimizer.step()
    optimizer.zero_grad()
    with torch.no_grad():
        for mean, weight in zip(averaged.parameters(), model.parameters(), strict=True):
            mean.lerp_(weight, 0.2)
with torch.autocast("cpu", torch.bfloat16):
    print("val_bpb:", evaluate_bpb(averaged, tokenizer, 8))
