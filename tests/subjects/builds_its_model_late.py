"""Makes its model after its first batch: a replica, which is stopped there, has none."""

import torch
from prepare import Tokenizer, evaluate_bpb, make_dataloader
from torch import nn

tokenizer = Tokenizer.from_directory()
next(make_dataloader(tokenizer, 8, 32, "train"))
model = nn.Embedding(tokenizer.get_vocab_size(), tokenizer.get_vocab_size())
with torch.no_grad():
    print("val_bpb:", evaluate_bpb(model, tokenizer, 8))
