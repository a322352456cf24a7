"""The views that a user sees in a terminal.

`render` draws a run, `show` prints its state, `runs` lists the runs of a state folder, `follow` and `local` keep the
picture up to date, `client` sends the user's requests to the researcher, and `terminal` is where commands print results
and errors.
"""
