"""The table of minimum requirements.

Sizes on disk are estimates from the parts (torch with CUDA about 8 GiB unpacked, Ollama's image 6, its default model 7,
shards and the data made of them 8), not measured on a GPU.
"""

from __future__ import annotations

from enum import StrEnum


class Mode(StrEnum):
    """Plain processes; containers on a processor; containers on a GPU."""

    LOCAL = "local"
    CPU = "cpu"
    GPU = "gpu"


ENGINE = "20.10"  # the first version whose BuildKit mounts the locks during a build
COMPOSE = "2.24.4"  # the first version with !override; optional env files came with 2.24.0
DRIVER = "580"  # torch 2.13's wheel depends on cuda-toolkit 13.0, and NVIDIA asks >= 580 for every CUDA 13.x
# The first start downloads and builds; later starts only write trials and logs.
FIRST_GIB = {Mode.LOCAL: 2, Mode.CPU: 6, Mode.GPU: 24}
LLM_GIB = 14
LOCAL_GPU_GIB = 10
LATER_GIB = {Mode.LOCAL: 1, Mode.CPU: 3, Mode.GPU: 3}
