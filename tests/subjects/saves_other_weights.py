"""The weights that it hands over are not those that are scored."""

import torch
from prepare import Tokenizer, evaluate_bpb, make_dataloader
from torch import nn


class Liar(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.table = nn.Parameter(torch.randn(vocab_size, vocab_size))

    def forward(self, x):
        return self.table[x]

    def state_dict(self, *args, **kwargs):
        return {name: torch.zeros_like(value) for name, value in super().state_dict(*args, **kwargs).items()}


tokenizer = Tokenizer.from_directory()
model = Liar(tokenizer.get_vocab_size())
next(make_dataloader(tokenizer, 8, 32, "train"))
print("val_bpb:", evaluate_bpb(model, tokenizer, 8))
