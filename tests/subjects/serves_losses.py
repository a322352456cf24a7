"""Its model gives losses where logits are asked for."""

import torch
from prepare import evaluate_bpb, make_dataloader

next(make_dataloader(None, 8, 32, "train"))
print("val_bpb:", evaluate_bpb(lambda x: torch.zeros(x.shape), None, 8))
