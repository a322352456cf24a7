"""A subject of the usual shape, small enough to read in a test."""

import torch
from prepare import MAX_SEQ_LEN, Tokenizer, evaluate_bpb, make_dataloader, progress

DEPTH = 2  # layers; range 1..8
TOTAL_BATCH_SIZE = 2**12  # tokens per optimiser step; range 2**10..2**15 pow2
MATRIX_LR = 0.04  # range 0.005..0.2 log
WINDOW_PATTERN = "SSSL"  # S = half the context, L = all of it; one of SSSL SSLL L
SEED = 42

torch.manual_seed(SEED)


class Model(torch.nn.Module):
    """Embeds and projects."""

    def __init__(self, vocab_size, width=32):
        super().__init__()
        self.embed = torch.nn.Embedding(vocab_size, width)
        self.head = torch.nn.Linear(width, vocab_size)

    def forward(self, x):
        # relu squared
        x = self.embed(x)
        x = torch.relu(x).square()
        return self.head(x)


tokenizer = Tokenizer.from_directory()
model = Model(tokenizer.get_vocab_size())
optimizer = torch.optim.AdamW(model.parameters(), lr=MATRIX_LR)
loader = make_dataloader(tokenizer, 4, MAX_SEQ_LEN, "train")

while progress() < 1:
    x, y, epoch = next(loader)
    loss = torch.nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten())
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()

print(f"val_bpb: {evaluate_bpb(model, tokenizer, 4):.6f}")
