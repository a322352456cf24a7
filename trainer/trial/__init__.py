"""One trial as seen from outside the candidate: supervision, limits, and the result.

`trial` runs a trial and returns its result. `run` starts the candidate and its replica, `supervise` watches a process,
`limits` and `training_time` compute its limits and its use of the budget, and `outcome` classifies its end.
`result_store` keeps the result, `compile_cache` the baseline's compiled code. `dry_run` runs a candidate on fake
tensors. `machine`, `gpu`, `disk_space` and `disk_usage` measure the machine. `task_trial` runs a user's own task,
`printed_metric` reads a value from its output, and `output_folder` looks at the files that it left. The worker imports
`run_trial` and `run_dry_run`.
"""
