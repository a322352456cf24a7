"""The proposers: whose turn the next experiment is, and how its change of train.py is found.

`proposers` is the list of them and asks them in turn, `schedule` says whose turn it is. A `draft` is a proposal with
the candidate that it makes. `optimizer_proposer`, `submitted`, `stronger_llm` and `combining` each hold one proposer.
The LLM's side is `llm_proposer`, `llm_conversation`, `prompt_context`, `edit_formats`, `advice`, `prefetch`,
`availability` and `escalation`; what a run has learned is in `lessons`; `novelty` rejects what is known to
be useless. The loop imports `Proposers` and `Draft`.
"""
