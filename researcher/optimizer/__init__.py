"""The optimiser: it moves the knobs of train.py by numbers, without an LLM.

`optimizer` asks Optuna, `space` describes the knobs' ranges, `constraints` repairs combinations that cannot run,
`evidence` selects the experiments that count around an incumbent, and `knob_effects` summarises what each knob did.
Proposers import `Optimizer` and `Sampler`.
"""
