"""The optimiser: it moves the knobs of train.py without an LLM.

`optimizer` asks Optuna, `space` describes the knobs' ranges, `constraints` repairs combinations that cannot run,
`evidence` selects the experiments that count around an incumbent, and `knob_effects` summarises the effect of each
knob. Proposers import `Optimizer` and `Sampler`.
"""
