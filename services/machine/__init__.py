"""This host: GPUs, processes, folders, settings and data, without Docker.

`gpus` finds the GPUs, `gpu_env` reads the settings, `state` and `subject` prepare the folders of a run, `process` and
`supervisor` start and end processes, `data` prepares training data and `model` pulls the LLM.
"""
