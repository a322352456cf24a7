"""Trains a random forest on the labelled rows, and leaves the probability of label 1 for each row that is scored."""

import os

import numpy as np
from sklearn.ensemble import RandomForestClassifier

TREES = 10  # trees; range 5..200 log
DEPTH = 2  # splits from the root to a leaf at most; range 1..12
LEAF_ROWS = 30  # rows in a leaf at least; range 1..60 log
FEATURE_SHARE = 0.2  # of the columns, tried at each split; range 0.2..1.0
ROW_SHARE = 0.5  # of the rows, drawn for each tree; range 0.1..1.0

forest = RandomForestClassifier(
    n_estimators=TREES,
    max_depth=DEPTH,
    min_samples_leaf=LEAF_ROWS,
    max_features=FEATURE_SHARE,
    max_samples=ROW_SHARE,
    random_state=int(os.environ["SEED"]) % 2**32,
)
forest.fit(np.load("data/rows.npy"), np.load("data/labels.npy"))
np.save("output/probabilities.npy", forest.predict_proba(np.load("data/scored_rows.npy"))[:, 1])
