"""Draws the images of the task into data/ and hidden/: run this once before a run. This file is pinned.

An image shows a disc, a square, a triangle or a cross in noise. The draw has no seed, so the labels that score exist in
hidden/ only.
"""

import pathlib

import numpy as np

SIDE = 12  # pixels
LABELLED, SCORED = 2000, 2000  # images
NOISE = 0.3  # the standard deviation of a pixel whose value is 0 or 1 without noise

random = np.random.default_rng()
y, x = np.mgrid[:SIDE, :SIDE]


def drawn(label):
    """Return an image of the class: SIDE by SIDE numbers."""
    radius = random.uniform(2.5, 4.5)
    across, down = (each - random.uniform(radius, SIDE - 1 - radius) for each in (x, y))
    shape = [
        across**2 + down**2 <= radius**2,
        np.maximum(abs(across), abs(down)) <= radius * 0.85,
        (abs(across) <= (down + radius) / 2) & (down <= radius),
        (np.minimum(abs(across), abs(down)) <= radius / 3) & (np.maximum(abs(across), abs(down)) <= radius),
    ][label]
    return (shape + random.normal(0, NOISE, shape.shape)).astype(np.float32)


labels = random.integers(4, size=LABELLED + SCORED)
images = np.stack([drawn(label) for label in labels])

for folder in ("data", "hidden"):
    pathlib.Path(folder).mkdir(exist_ok=True)
np.save("data/images.npy", images[:LABELLED])
np.save("data/labels.npy", labels[:LABELLED])
np.save("data/scored_images.npy", images[LABELLED:])
np.save("hidden/labels.npy", labels[LABELLED:])
