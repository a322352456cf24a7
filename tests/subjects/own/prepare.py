"""The fixed half in the field's shape, its data below a cache folder of the home: words of a text, one token each.

Run once by hand, it makes its data from Python's own manual.
"""

import math
import os
import pickle

import numpy as np
import torch

MAX_SEQ_LEN = 16
TIME_BUDGET = 2
EVAL_TOKENS = 40 * 32
LONGEST_WORD = 12
CACHE_DIR = os.path.join(os.path.expanduser("~"), ".cache", "own-subject")
DATA_DIR = os.path.join(CACHE_DIR, "data")
TOKENIZER_DIR = os.path.join(CACHE_DIR, "tokenizer")
BOS = "<bos>"


class Tokenizer:
    def __init__(self, words):
        self.words = words
        self.number = {word: at for at, word in enumerate(words)}

    @classmethod
    def from_directory(cls, tokenizer_dir=TOKENIZER_DIR):
        with open(os.path.join(tokenizer_dir, "tokenizer.pkl"), "rb") as file:
            return cls(pickle.load(file))

    def get_vocab_size(self):
        return len(self.words)

    def get_bos_token_id(self):
        return 0

    def encode(self, text):
        return [0, *(self.number[word] for word in text.split())]


def get_token_bytes(device="cpu"):
    return torch.from_numpy(np.load(os.path.join(TOKENIZER_DIR, "token_bytes.npy"))).to(device)


def make_dataloader(tokenizer, B, T, split, buffer_size=1000):  # noqa: N803 - the names of the contract
    with open(os.path.join(DATA_DIR, f"{split}.txt"), encoding="utf-8") as file:
        documents = [tokenizer.encode(line) for line in file]
    rows, epoch = [], 1
    while True:
        for tokens in documents:
            for start in range(0, len(tokens) - T, T):
                rows.append([0, *tokens[start + 1 : start + T + 1]])
                if len(rows) == B:
                    batch = torch.tensor(rows)
                    yield batch[:, :-1], batch[:, 1:], epoch
                    rows = []
        epoch += 1


@torch.no_grad()
def evaluate_bpb(model, tokenizer, batch_size):
    token_bytes = get_token_bytes()
    nats, total = 0.0, 0
    for x, y, epoch in make_dataloader(tokenizer, batch_size, MAX_SEQ_LEN, "val"):
        if epoch > 1 or total > EVAL_TOKENS:
            break
        lengths = token_bytes[y]
        nats += (model(x, y, reduction="none").view_as(y) * (lengths > 0)).sum().item()
        total += lengths.sum().item()
    return nats / (math.log(2) * total)


if __name__ == "__main__":
    from pydoc_data.topics import topics

    texts = [" ".join(word[:LONGEST_WORD] for word in text.split()) for _, text in sorted(topics.items())]
    for folder in (DATA_DIR, TOKENIZER_DIR):
        os.makedirs(folder, exist_ok=True)
    for split, part in (("train", texts[:-8]), ("val", texts[-8:])):
        with open(os.path.join(DATA_DIR, f"{split}.txt"), "w", encoding="utf-8") as file:
            file.write("\n".join(part))
    words = [BOS, *sorted({word for text in texts for word in text.split()})]
    with open(os.path.join(TOKENIZER_DIR, "tokenizer.pkl"), "wb") as file:
        pickle.dump(words, file)
    np.save(os.path.join(TOKENIZER_DIR, "token_bytes.npy"), [0, *(len(word.encode()) for word in words[1:])])
