"""What honest scripts do besides training: compile, load with workers, save and load, make temporary files."""

import tempfile

import torch
from torch.utils.data import DataLoader, TensorDataset

model = torch.nn.Linear(4, 4)
compiled = torch.compile(model)
rows = TensorDataset(torch.randn(32, 4))
for (row,) in DataLoader(rows, batch_size=8, num_workers=2):
    compiled(row).sum().backward()
with tempfile.TemporaryDirectory() as folder:
    torch.save(model.state_dict(), f"{folder}/weights.pt")
    model.load_state_dict(torch.load(f"{folder}/weights.pt"))
print("all of it works")
