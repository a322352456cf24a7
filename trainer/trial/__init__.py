"""One trial as seen from outside the candidate: supervision, limits, and the result.

`trial` runs one and returns its result; `run` starts the candidate and its replica, `supervise` watches it, `limits`
and `training_time` hold its limits and its budget, `outcome` classifies how it ended. `result_fields` and
`result_store` make and keep the result, `dry_run` runs a candidate on fake tensors, `machine_speed`, `device`, `gpu`,
`disk_space` and `disk_usage` measure the machine, and `nvml` asks the GPU's driver. The worker imports `run_trial` and
`run_check`.
"""
