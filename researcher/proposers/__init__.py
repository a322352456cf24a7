"""The proposers: they choose the next change of train.py, and the source of that change.

`proposers` holds the ordered list of proposers, asks them in turn, and contains those that ask no LLM. `schedule`
assigns each experiment to a proposer. `draft` defines a proposal with its candidate. `stronger_llm` asks a paid model.
The LLM's proposer consists of `llm_proposer`, `llm_conversation`, `prompt_context`, `edit_formats`, `advice`,
`prefetch`, `availability` and `escalation`. `lessons` holds what a run has learned, and `novelty` rejects proposals
that are known to be useless. The loop imports `Proposers` and `Draft`.
"""
