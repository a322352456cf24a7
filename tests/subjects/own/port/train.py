"""The script of a port: everything in functions, a model that is an attribute, a device that is handed around."""

import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - as the field writes it
from prepare import (
    DEVICE,
    MAX_SEQ_LEN,
    TIME_BUDGET,
    Tokenizer,
    evaluate_bpb,
    get_device,
    make_dataloader,
    parameters_m,
)
from torch import nn

BATCH_SIZE = 8
MATRIX_LR = 0.01  # range 0.001..0.1 log


class GPT(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.wte = nn.Embedding(vocab_size, 32)
        self.lm_head = nn.Linear(32, vocab_size, bias=False)

    def forward(self, idx, targets=None, reduction="mean"):
        logits = self.lm_head(self.wte(idx)).float()
        if targets is None:
            return logits
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction=reduction)


@dataclass
class Run:
    network: nn.Module
    seconds: float = 0.0


def train(run, tokenizer, device):
    optimizer = torch.optim.AdamW(run.network.parameters(), lr=MATRIX_LR)
    loader = make_dataloader(tokenizer, batch_size=BATCH_SIZE, seq_len=MAX_SEQ_LEN, split="train", device=device)
    steps = 0
    while run.seconds < TIME_BUDGET:
        began = time.time()
        x, y, _ = next(loader)
        run.network(x, y).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        steps += 1
        run.seconds += time.time() - began if steps > 11 else 0.0
    return steps


def main():
    torch.manual_seed(1337)
    device = torch.device(get_device())
    tokenizer = Tokenizer.from_directory()
    run = Run(GPT(tokenizer.get_vocab_size()).to(DEVICE))
    steps = train(run, tokenizer, device)
    run.network.eval()
    val_bpb = evaluate_bpb(run.network, tokenizer, BATCH_SIZE, device=device)
    print("---")
    print(f"val_bpb:          {val_bpb:.6f}")
    print(f"training_seconds: {run.seconds:.1f}")
    print(f"num_steps:        {steps}")
    print(f"num_params_M:     {parameters_m(run.network):.3f}")


if __name__ == "__main__":
    main()
