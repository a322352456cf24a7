"""The trainer's container: `prepare` makes the training data, with `task_inputs` those of a task, and `start` finds the
profile for its GPU and starts the worker. `single_trial` runs one trial outside of any run.
"""
