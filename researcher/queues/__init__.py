"""The researcher's side of RQ: the jobs that it sends through Redis, and the requests that it receives.

`trials` enqueues trials and collects their results, `dry_runs` requests dry runs, and `requests` receives the requests
of users.
"""
