"""The loop of a run: it chooses the next step, executes the step, and repeats the step after an interruption.

`loop` sequences the steps. `context` holds everything that a step works with, and measures one trial. `confirmation`
measures a version again with fresh seeds. `outages` and `resume` continue the run after a failure of its surroundings.
`request_handler` answers users' requests, `status` publishes the state of the run, `backups` writes a backup after each
decision, and `clock` gives the run's times, which never decrease. Only `researcher.__main__` and `researcher.wiring`
import from this folder.
"""
