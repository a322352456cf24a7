"""Chat clients: one module for each kind of endpoint, behind the protocol in `client`.

`ollama` uses Ollama's API with `ollama_api`, `ollama_memory` and `gpu_memory_split`. `openai` uses any
OpenAI-compatible endpoint. `stream` reads the answers of both. With `leased` a client answers only while it holds the
lease of the GPU. `backends` is the table of all backends: a new one needs a client and a line there. Other folders
import `ChatClient`, `Message`, `Answer` and that table.
"""
