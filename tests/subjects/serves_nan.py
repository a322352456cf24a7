"""One logit of the last row is not a number."""

import torch
from prepare import evaluate_bpb, make_dataloader


def model(x):
    logits = torch.zeros(*x.shape, 48)
    logits[-1, -1, -1] = float("nan")
    return logits


next(make_dataloader(None, 8, 32, "train"))
print("val_bpb:", evaluate_bpb(model, None, 8))
