"""The trainer's container: `prepare` makes the training data, `start` finds the profile for its GPU and starts the
worker, and `health` is its health check."""
