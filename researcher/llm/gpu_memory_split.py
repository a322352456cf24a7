"""The memory split of a GPU between the LLM and the trainer, for each profile. Pure arithmetic.

Sizes are MiB of the GPU's own memory, totals as NVML reports them (a "48 GB" GPU has 44 to 48 GiB). The reserves are
computed, not measured on a GPU: weights, f16 KV cache, compute buffers, the CUDA context, and about a tenth more.
"""

from __future__ import annotations

from dataclasses import dataclass

from trainer.jobs import Profile, profile_named

_GIB = 1024
SMALL_GPU_MIB = 22 * _GIB  # NVML reports 22 GiB and more for a "24 GB" GPU
LEAST_CAP_MIB = 2 * _GIB  # the smallest profile needs at least this much


@dataclass(frozen=True)
class Placement:
    """The model and options requested from Ollama. `reserve_mib` is the GPU memory reserved for it, None without a GPU.

    A model that is not `resident` is unloaded before each trial. `num_batch` is fixed because Ollama's own choice grows
    with the context and takes up to 2 GiB.
    """

    model: str
    num_ctx: int
    reserve_mib: int | None
    resident: bool = True
    num_batch: int = 512


_PLACEMENTS = {
    "cpu": Placement("qwen3.5:4b", 16384, None),
    "12gb": Placement("qwen3.5:4b", 16384, 6656, resident=False),
    "16gb": Placement("qwen3.5:9b", 16384, 10 * _GIB, resident=False),
    "24gb": Placement("qwen3.5:9b", 16384, 10 * _GIB),
    "48gb": Placement("qwen3.5:9b", 32768, 12 * _GIB),
    "80gb": Placement("qwen3.5:9b", 65536, 14 * _GIB),
    "fork": Placement("qwen3.5:9b", 32768, 12 * _GIB),
}


def placement_for(profile_name: str) -> Placement:
    """Return the placement of a profile. Raises ProfileError for an unknown profile."""
    return _PLACEMENTS[profile_named(profile_name).name]


@dataclass(frozen=True)
class Split:
    """One GPU shared by an LLM and a trainer. A `resident` LLM stays loaded while the trainer runs."""

    total_mib: int
    reserve_mib: int
    cap_mib: int
    margin_mib: int
    resident: bool = True

    @property
    def largest_cap_mib(self) -> int:
        """The largest possible memory cap of the trainer, in MiB."""
        return self.total_mib - self.margin_mib - (self.reserve_mib if self.resident else 0)

    @property
    def free_mib(self) -> int:
        """The unused memory in MiB; negative if the split does not fit."""
        llm_and_trainer = (self.reserve_mib, self.cap_mib)
        return self.total_mib - self.margin_mib - (sum if self.resident else max)(llm_and_trainer)

    @property
    def fits(self) -> bool:
        """True if the split fits the GPU."""
        return self.free_mib >= 0

    @property
    def found(self) -> str:
        """The arithmetic in one line, and whether the split fits."""
        llm, trainer = f"{self.reserve_mib} LLM", f"{self.cap_mib} trainer"
        taken = f"{llm} - {trainer}" if self.resident else f"the larger of {llm} and {trainer}, in turn"
        sum_ = f"{self.total_mib} total - {taken} - {self.margin_mib} margin = {self.free_mib} MiB"
        return f"{sum_} free" if self.fits else f"{sum_}: does not fit"

    @property
    def next_step(self) -> str | None:
        """The change that makes the split fit, or None if it fits."""
        if self.fits:
            return None
        llm_fits = self.reserve_mib + self.margin_mib <= self.total_mib
        if llm_fits and self.largest_cap_mib >= LEAST_CAP_MIB:
            return f"lower TRAINER_CAP_MIB to {self.largest_cap_mib}"
        return "set a smaller MODEL or NUM_CTX and lower LLM_RESERVE_MIB, or set LLM=none"

    def text(self) -> str:
        """Return the arithmetic and the next step in one line."""
        return self.found if self.next_step is None else f"{self.found}; {self.next_step}"


def margin_mib(total_mib: int) -> int:
    """Return the memory in MiB to keep free for CUDA contexts, fragmentation and growing buffers."""
    return 1536 if total_mib < SMALL_GPU_MIB else 2048


def split_for(profile: Profile, total_mib: int, *, reserve_mib: int | None = None, cap_mib: int | None = None) -> Split:
    """Return the split of a GPU under a GPU profile.

    Given numbers replace the profile's own; without an LLM pass a reserve of 0.
    """
    placement = placement_for(profile.name)
    reserve_mib = placement.reserve_mib if reserve_mib is None else reserve_mib
    cap_mib = profile.caps.vram_mib if cap_mib is None else cap_mib
    assert reserve_mib is not None, f"profile {profile.name} has no GPU to split"
    assert cap_mib is not None, f"profile {profile.name} has no GPU to split"
    return Split(total_mib, reserve_mib, cap_mib, margin_mib(total_mib), placement.resident)
