"""One image with Ollama, the server, the researcher and the trainer, for clouds that rent containers.

`start` is its entry point and keeps everything alive. `run` restores a lost run from its backup, and becomes
`overnight run`.
"""
