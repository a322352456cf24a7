"""The rules of a run, pure: values in, decisions out.

`rules` decides whether a candidate is kept and judges a confirmation, `heldout` compares held-out scores,
`machine_speed` tells a slower machine from a slower candidate, `lost_trials` tells whose failure a lost trial is,
`standing` says which accepted changes still stand, and `cost` what a run has cost. The simulation in tests/bench
imports these functions.
"""
