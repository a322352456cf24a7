"""This host: GPUs, processes, folders, settings, data and containers.

`installation` knows the form in which Overnight is installed, `gpus` finds the GPUs, and `gpu_env` reads the settings.
`state` and `subject` prepare the folders of a run, `runs` keeps several runs in one state, and `backup` restores one.
`process` and `supervisor` start and end processes, `data` prepares training data, and `model` pulls the LLM.
`compose` runs the compose CLI and reads the engine. `console_script` is the program of the installed command.
"""
