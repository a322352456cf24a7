"""Trains a small convolutional network, prints its accuracy, and leaves the labels of the images that are scored.

The printed accuracy is that on labelled images which are left out of the training. It counts where the task has no
score command, as in claimed.toml; with overnight.toml, the labels in the output folder count.
"""

import os

import numpy as np
import torch
from torch import nn
from torch.nn import functional

CHANNELS = 4  # of the first convolution, half of those of the second; range 4..16 pow2
STEPS = 100  # of training; range 40..400 log
BATCH = 32  # images in a step; range 16..64 pow2
LEARNING_RATE = 0.003  # of AdamW; range 0.0005..0.05 log
WEIGHT_DECAY = 0.01  # of AdamW; range 0.0001..1.0 log
DROPOUT = 0.3  # share of the features that a step leaves out; range 0.0..0.6
LEFT_OUT = 500  # labelled images that are not trained on

torch.manual_seed(int(os.environ["SEED"]))
torch.set_num_threads(1)

images = torch.from_numpy(np.load("data/images.npy"))[:, None]
labels = torch.from_numpy(np.load("data/labels.npy"))
scored_images = torch.from_numpy(np.load("data/scored_images.npy"))[:, None]

network = nn.Sequential(
    nn.Conv2d(1, CHANNELS, 3, padding=1),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Conv2d(CHANNELS, 2 * CHANNELS, 3, padding=1),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Flatten(),
    nn.Dropout(DROPOUT),
    nn.LazyLinear(4),
)
network(images[:1])  # gives the last layer its size
optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
for _ in range(STEPS):
    batch = torch.randint(len(images) - LEFT_OUT, (BATCH,))
    loss = functional.cross_entropy(network(images[batch]), labels[batch])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

network.eval()
with torch.no_grad():
    right = network(images[-LEFT_OUT:]).argmax(1) == labels[-LEFT_OUT:]
    answers = network(scored_images).argmax(1)
os.makedirs("output", exist_ok=True)
np.save("output/labels.npy", answers.numpy())
print(f"accuracy: {right.float().mean().item():.6f}")
