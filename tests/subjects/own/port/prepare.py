"""The fixed half of a port: its cache is named by a variable, its loader and score take a device, its budget a default.

Run once by hand, it makes its data from Python's own manual.
"""

import math
import os
import pickle

import numpy as np
import torch

MAX_SEQ_LEN = 16
TIME_BUDGET = int(os.environ.get("PORT_SECONDS", "2"))
EVAL_TOKENS = 64 * MAX_SEQ_LEN
CACHE_DIR = os.environ.get("PORT_CACHE") or os.path.join(os.path.expanduser("~"), ".cache", "port")


def get_device():
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


DEVICE = get_device()


def parameters_m(model):
    return sum(weight.numel() for weight in model.parameters()) / 1e6


class Tokenizer:
    def __init__(self, words):
        self.words = words
        self.number = {word: at for at, word in enumerate(words)}

    @classmethod
    def from_directory(cls, folder=CACHE_DIR):
        with open(os.path.join(folder, "tokenizer.pkl"), "rb") as file:
            return cls(pickle.load(file))

    def get_vocab_size(self):
        return len(self.words)

    def encode(self, text):
        return [0, *(self.number[word] for word in text.split())]


def get_token_bytes(device="cuda"):
    return torch.from_numpy(np.load(os.path.join(CACHE_DIR, "token_bytes.npy"))).to(device)


def make_dataloader(tokenizer, batch_size, seq_len, split, device, buffer_size=1000):
    with open(os.path.join(CACHE_DIR, f"{split}.txt"), encoding="utf-8") as file:
        documents = [tokenizer.encode(line) for line in file]
    rows, epoch = [], 1
    while True:
        for tokens in documents:
            for start in range(0, len(tokens) - seq_len, seq_len):
                rows.append([0, *tokens[start + 1 : start + seq_len + 1]])
                if len(rows) == batch_size:
                    batch = torch.tensor(rows, device=device)
                    yield batch[:, :-1], batch[:, 1:], epoch
                    rows = []
        epoch += 1


@torch.no_grad()
def evaluate_bpb(model, tokenizer, batch_size, device, seq_len=MAX_SEQ_LEN):
    token_bytes = get_token_bytes(device)
    nats, total = 0.0, 0
    batches = make_dataloader(tokenizer, batch_size, seq_len, "val", device)
    for _ in range(EVAL_TOKENS // (batch_size * seq_len)):
        x, y, _ = next(batches)
        lengths = token_bytes[y]
        nats += (model(x, y, reduction="none").view_as(y) * (lengths > 0)).sum().item()
        total += lengths.sum().item()
    return nats / (math.log(2) * total)


if __name__ == "__main__":
    from pydoc_data.topics import topics

    texts = [" ".join(word[:12] for word in text.split()) for _, text in sorted(topics.items())]
    os.makedirs(CACHE_DIR, exist_ok=True)
    for split, part in (("train", texts[:-8]), ("val", texts[-8:])):
        with open(os.path.join(CACHE_DIR, f"{split}.txt"), "w", encoding="utf-8") as file:
            file.write("\n".join(part))
    words = ["<bos>", *sorted({word for text in texts for word in text.split()})]
    with open(os.path.join(CACHE_DIR, "tokenizer.pkl"), "wb") as file:
        pickle.dump(words, file)
    np.save(os.path.join(CACHE_DIR, "token_bytes.npy"), [0, *(len(word.encode()) for word in words[1:])])
