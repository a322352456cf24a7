"""Sets seeds of its own, before every draw another one."""

import random

import numpy as np
import torch

for seed in (1, 2):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    print("drew", random.random(), np.random.rand(), torch.rand(()).item())
