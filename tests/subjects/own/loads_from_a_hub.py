"""The field's script in miniature with code from a hub's cache, fetched in a function as the packages of hubs do it."""

import importlib.util
import time

import torch
import torch.nn.functional as F  # noqa: N812 - as the field writes it
from prepare import MAX_SEQ_LEN, TIME_BUDGET, Tokenizer, evaluate_bpb, make_dataloader
from torch import nn

BATCH_SIZE = 8
MATRIX_LR = 0.01  # range 0.001..0.1 log


def load_kernel():
    from huggingface_hub import snapshot_download

    repo = "example/fast-gpu" if torch.cuda.is_available() else "example/plain"
    folder = snapshot_download(repo)
    spec = importlib.util.spec_from_file_location("kernel", f"{folder}/build/torch-universal/kernel.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


kernel = load_kernel()
tokenizer = Tokenizer.from_directory()


class GPT(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.wte = nn.Embedding(vocab_size, 32)
        self.lm_head = nn.Linear(32, vocab_size, bias=False)

    def forward(self, idx, targets=None, reduction="mean"):
        logits = kernel.softcap(self.lm_head(self.wte(idx)).float())
        if targets is None:
            return logits
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction=reduction)


model = GPT(tokenizer.get_vocab_size())
optimizer = torch.optim.AdamW(model.parameters(), lr=MATRIX_LR)
loader = make_dataloader(tokenizer, BATCH_SIZE, MAX_SEQ_LEN, "train")
seconds, steps = 0.0, 0
while seconds < TIME_BUDGET:
    began = time.time()
    x, y, epoch = next(loader)
    model(x, y).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    steps += 1
    seconds += time.time() - began if steps > 11 else 0.0
model.eval()
print(f"val_bpb:          {evaluate_bpb(model, tokenizer, BATCH_SIZE):.6f}")
print(f"num_steps:        {steps}")
