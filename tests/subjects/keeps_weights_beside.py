"""What it learned is not in its state_dict: a fresh process with its weights does not know it."""

import torch
from prepare import Tokenizer, evaluate_bpb, make_dataloader
from torch import nn


class Beside(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(vocab_size, vocab_size))
        self.learned = torch.zeros(vocab_size)

    def forward(self, x):
        return self.table[x] + self.learned


tokenizer = Tokenizer.from_directory()
model = Beside(tokenizer.get_vocab_size())
x, y, epoch = next(make_dataloader(tokenizer, 8, 32, "train"))
model.learned = torch.bincount(y.flatten(), minlength=tokenizer.get_vocab_size()).add(1).log()
print("val_bpb:", evaluate_bpb(model, tokenizer, 8))
