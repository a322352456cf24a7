"""Chat clients: one module for each kind of endpoint, behind the protocol in `client`.

`ollama` speaks Ollama's API with `ollama_api`, `ollama_memory` and `gpu_memory_split`; `openai` speaks to
any endpoint compatible with OpenAI's; `stream` reads both. `backends` is the table of all of them: a new one is its
client and a line there. Others import `ChatClient`, `Message`, `Answer` and that table.
"""
