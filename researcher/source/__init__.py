"""The source of train.py as text: parsing, knobs, edits, and what is accepted as a candidate.

`proposal` defines proposals and candidates, `validation` turns one into the other with the checks in `syntax`,
`undefined_names`, `policy`, `plain_text` and `information_limit`. `edits`, `knobs` and `definitions` change the text;
`fingerprint` tells when two sources are the same program.
"""
