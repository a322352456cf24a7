"""`overnight init`: take a user's own repository as the subject, unedited.

`adopt` does it, with `own_data`, which plans and makes the data and also works in a container. `subject_check` tests
whether the scripts have the known shape. Nothing of them is run for that: `static_values` reads constants, `conditions`
under which each part runs, `packages` the imports, `hub_cache` what is loaded from a hub, `uncounted_steps` the steps
that the script's clock leaves out. `stand_in` writes the prepare.py that trials get.

Any other task stands in overnight.toml: `task_file` reads and writes it, `task_check` tests it against the repository,
`task_guess` proposes it from what a repository contains, and `task_adoption` makes it the task of a run.
"""
