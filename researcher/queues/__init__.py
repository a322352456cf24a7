"""The researcher's side of RQ: what it sends through Redis, and what it is sent.

`trials` hands out trials and collects their results, `dry_runs` asks for dry runs, and `requests` receives the requests
of users.
"""
