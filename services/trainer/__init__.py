"""The trainer's container: `prepare` makes the training data, and `start` finds the profile for its GPU and starts the
worker. `single_trial` runs one trial outside of any run.
"""
