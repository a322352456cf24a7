"""The containers from `scripts/up` to the end of a run.

`up` starts them and reports the changes, `gpu_first` examines the GPU before the first start, `local_env` detects the
machine's settings, `provision` makes passwords and owns the volumes, `follow` watches a run in containers, `end_action`
ends the cost of the machine afterwards, and `results` copies results out.
"""
