"""The server with the Redis protocol: local mode's own server, and the Redis users of both modes.

`server` starts the server, `binary` finds a program for it, `folder` prepares its files, `acl` writes its users, and
`watchdog` ends a server that does not answer.
"""
