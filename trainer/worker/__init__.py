"""The RQ worker takes jobs from a queue and runs each in a fork.

`rq_worker` holds the worker, `job_functions` the only functions that a job may name. `heartbeat` shows the worker's
state in Redis, `gpu_hold` holds a trial's GPU, and `orphaned_jobs` recovers the jobs of a killed worker.
`trainer.__main__` starts the worker.
"""
