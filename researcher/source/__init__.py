"""The source of train.py as text: parsing, knobs, edits, and the validation of candidates.

`proposal` defines proposals and candidates. `validation` turns one into the other with the checks in `syntax`,
`undefined_names`, `policy`, `plain_text` and `information_limit`. `edits`, `knobs` and `definitions` change the text;
`fingerprint` detects that two sources are the same program.
"""
