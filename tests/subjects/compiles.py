"""Trains a compiled table of pairs, and prints what the compiler found in its cache and what it had to compile."""

import torch
from prepare import MAX_SEQ_LEN, Tokenizer, evaluate_bpb, make_dataloader, progress, warm_evaluation
from torch import nn
from torch._dynamo.utils import counters


class Bigrams(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.table = nn.Parameter(torch.randn(vocab_size, vocab_size) * 0.1)

    def forward(self, x, y=None, reduction="mean"):
        logits = self.table[x] * 1.0
        if y is None:
            return logits
        return nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction=reduction)


def print_counters():
    graphs, inductor = counters["stats"]["unique_graphs"], counters["inductor"]
    found, compiled = inductor["fxgraph_cache_hit"], inductor["fxgraph_cache_miss"]
    print(f"{graphs} graphs, {found} found, {compiled} compiled", flush=True)


tokenizer = Tokenizer.from_directory()
torch.manual_seed(7)
model = torch.compile(Bigrams(tokenizer.get_vocab_size()), dynamic=False)
batches = make_dataloader(tokenizer, 8, MAX_SEQ_LEN, "train")
warm = False
while progress() < 1:
    x, y, epoch = next(batches)
    model(x.contiguous(), y.contiguous()).backward()
    with torch.no_grad():
        model.table -= 20.0 * model.table.grad
    model.table.grad = None
    if not warm:
        warm_evaluation(model, 8)
        warm = True
print_counters()
evaluate_bpb(model, tokenizer, 8)
