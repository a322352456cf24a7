"""The loop of a run: which step is next, and how a step is carried out and repeated after an interruption.

`loop` sequences the steps, `context` holds everything a step works with and measures one trial, `confirmation` measures
a gain again, `outages` and `resume` go on after a failure of the infrastructure, `request_handler` answers users, and
`status` publishes what the run is doing. Only `researcher.__main__` imports from this folder.
"""
