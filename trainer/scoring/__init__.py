"""The trusted metric: a candidate answers with logits, and the trainer computes the score from them.

`score` computes val_bpb over the validation `rows`. `exchange` sends rows and receives logits. `cross_entropy` turns
logits into losses. `causality` detects a candidate that looks ahead, and `replica` compares the score with the answers
of a fresh process.
"""
