"""The trusted metric: a candidate is asked for logits, and its score is computed here.

`score` computes val_bpb over the validation `rows`, `exchange` and `examination` ask a candidate, `cross_entropy` turns
logits into losses, `causality` finds a candidate that looks ahead, and `replica` asks a fresh process whether it
agrees.
"""
