"""The page of a run: a small web server beside it, which renders the report for a browser.

`server` runs it at an `address`, `app` holds its pages, `access` decides who may send a request, and `run_data` reads
the journal and Redis. `facts` words the first screen, `experiments` prepares the table and the chart of all
experiments, `experiment` prepares everything about one, `diff` and `curves` draw its change and its losses, `learned`
estimates what each knob does, and `pages` renders the templates. `steering` sends the user's requests. `file_report`
draws a run into one file. Nothing here decides anything: the page shows what the report says.
"""
