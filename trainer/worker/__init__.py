"""The RQ worker: it takes jobs from a queue and runs each in a fork.

`rq_worker` is the worker, `job_functions` are the only functions a job may name, `heartbeat` shows in Redis what the
worker is doing, and `orphaned_jobs` takes over what a killed worker had begun. `trainer.__main__` starts it.
"""
