"""The rules of a run as pure functions: they take values and return decisions.

`rules` decides whether a candidate is kept, judges a confirmation, and lists the keeps that were rolled back. `heldout`
compares held-out scores. `machine_speed` distinguishes a slower machine from a slower candidate. `lost_trials` decides
whether a lost trial is the infrastructure's or the candidate's failure. `setup_time` derives the free set-up of trials
from the baseline's. `cost` computes the cost of a run, and `goal` whether a limit is reached. The simulation in
tests/bench imports these functions.
"""
