"""The containers from `scripts/up` to the end of a run.

`up` starts them, `changes` says what a new start would change, `local_env` detects the machine's settings, `provision`
makes passwords and owns the volumes, `follow` watches a run in containers, `results` copies results out, and `digests`
pins images.
"""
