"""The Redis-protocol server: local mode's own, and the users that it has in both modes.

`server` starts it, `binary` finds a program for it, `folder` prepares its files, `acl` writes its users, and `watchdog`
ends a server that does not answer.
"""
