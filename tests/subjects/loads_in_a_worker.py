"""Takes its rows from a worker, which hands tensors over through shared memory and a unix socket."""

import torch
from torch.utils.data import DataLoader, TensorDataset

rows = TensorDataset(torch.ones(8))
print("loaded", sum(row.sum().item() for (row,) in DataLoader(rows, batch_size=4, num_workers=1)))
