"""Profiles: the set-up of a trial of the default subject for each kind of machine.

`80gb` is the original's set-up and `fork` that of the local-LLM fork. The other GPU profiles follow from the memory
that a trainer needs by depth and batch; their caps leave room for the LLM on the smallest GPU of the profile. `cpu`
follows from `80gb` by one rule (`_scaled_to_cpu`), not by tuning. Scores of different profiles do not compare.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from trainer.jobs.metric import BITS_PER_BYTE, Degree, Metric
from trainer.jobs.spec import Budget, Caps, Clock
from trainer.jobs.task import Task

KnobValue = int | float | str
_TASK_REPEATS = 5  # of the baseline: nothing is known about the noise of the metric
OWN_UNCOUNTED_STEPS = 11  # as in common training scripts; these steps include compilation


class ProfileError(ValueError):
    """Raised for an unknown profile. The message lists the known ones."""


@dataclass(frozen=True)
class Profile:
    """The start values and the budget of a trial.

    `knobs` are the start values of train.py, `constants` those of prepare.py; both are module-level ALL_CAPS names.
    `ranges` replaces range comments of train.py that do not fit the profile. `text` names the source of the data.
    `sigma_floor` is the smallest standard deviation over seeds that the decision rule uses, in the
    unit of the `metric`. `degree` is the degree of trust in its values, and `task` the
    user's own task, or None for a GPT training script.
    """

    name: str
    device: str
    gpu_gib: float
    text: str
    knobs: dict[str, KnobValue]
    ranges: dict[str, str]
    constants: dict[str, int]
    budget: Budget
    caps: Caps
    baseline_repeats: int
    sigma_floor: float
    metric: Metric = BITS_PER_BYTE
    degree: Degree = Degree.MEASURED
    task: Task | None = None

    def with_budget(self, seconds: float) -> Profile:
        """Return the profile with another training time, in seconds of the profile's clock."""
        constants = self.constants | {"TIME_BUDGET": max(1, round(seconds))}
        cap_s = self.budget.warmup_cap_s
        if self.budget.clock is Clock.WALL:
            cap_s = max(_GPU_BUDGET.warmup_cap_s, seconds / 3)
        return replace(self, constants=constants, budget=replace(self.budget, amount=seconds, warmup_cap_s=cap_s))

    def adopted(self, constants: dict[str, int]) -> Profile:
        """Return the profile for a user's own script, which counts wall seconds after its uncounted steps.

        `constants` come from its prepare.py: the length of rows, the size of the vocabulary, the training time in
        seconds, and the number of scored rows if it is not the profile's; and from its train.py: the number of first
        steps that its clock leaves out. Without a GPU the set-up counts processor seconds, because it is ours to time.
        """
        budget = replace(
            self.budget,
            amount=constants["TIME_BUDGET"],
            clock=Clock.WALL,
            setup_clock=Clock.WALL if self.device == "cuda" else Clock.PROCESSOR,
            warmup_steps=constants.get("UNCOUNTED_STEPS", OWN_UNCOUNTED_STEPS),
            warmup_cap_s=max(_GPU_BUDGET.warmup_cap_s, constants["TIME_BUDGET"] / 3),
            eval_rows=constants.get("EVAL_ROWS", self.budget.eval_rows),
        )
        return replace(self, constants=self.constants | constants, budget=budget)

    def of_task(self, task: Task) -> Profile:
        """Return the profile for a user's own task, whose commands get `seconds` of wall time each, start included.

        The phases within the command are not known, so no other limit ends it.
        """
        budget = replace(
            self.budget,
            amount=task.seconds,
            clock=Clock.WALL,
            warmup_steps=0,
            warmup_cap_s=0,
            setup_s=60 + 2 * task.seconds,
            scoring_s=60 + task.seconds,
            eval_rows=0,
            heldout_rows=0,
            unseen_rows=0,
        )
        return replace(
            self,
            knobs={},
            ranges={},
            budget=budget,
            baseline_repeats=max(_TASK_REPEATS, self.baseline_repeats),
            sigma_floor=task.sigma_floor,
            metric=task.metric,
            degree=task.degree,
            task=task,
        )

    @property
    def context(self) -> int:
        """The number of tokens in a row."""
        return self.constants["MAX_SEQ_LEN"]

    @property
    def vocab_size(self) -> int:
        """The number of tokens in the vocabulary, including reserved ones."""
        return self.constants["VOCAB_SIZE"]


def profile_named(name: str) -> Profile:
    """Return a profile of the table. Raise ProfileError for an unknown name."""
    if name not in PROFILES:
        raise ProfileError(f"profile {name!r} is not known; choose one of: {', '.join(PROFILES)}")
    return PROFILES[name]


_SHARED_KNOBS: dict[str, KnobValue] = {
    "ASPECT_RATIO": 64,
    "EMBEDDING_LR": 0.6,
    "UNEMBEDDING_LR": 0.004,
    "MATRIX_LR": 0.04,
    "SCALAR_LR": 0.5,
    "WEIGHT_DECAY": 0.2,
    "WARMUP_RATIO": 0.0,
    "WARMDOWN_RATIO": 0.5,
    "FINAL_LR_FRAC": 0.0,
}
_GPU_CONSTANTS = {"MAX_SEQ_LEN": 2048, "TIME_BUDGET": 300, "VOCAB_SIZE": 8192}
_GPU_BUDGET = Budget(
    amount=300,
    clock=Clock.WALL,
    warmup_steps=10,
    warmup_cap_s=100,  # for compilation; a script that trains in it gains a third of the budget at most
    setup_s=120,
    scoring_s=240,
    eval_rows=2048,
    heldout_rows=1024,
    unseen_rows=1024,
)


def _gpu(
    name: str, gpu_gib: float, vram_gib: float, *, depth: int, batch: int, total: int, windows: str = "SSSL"
) -> Profile:
    return Profile(
        name=name,
        device="cuda",
        gpu_gib=gpu_gib,
        text="climbmix",
        knobs={
            "DEPTH": depth,
            "HEAD_DIM": 128,
            "WINDOW_PATTERN": windows,
            "DEVICE_BATCH_SIZE": batch,
            "TOTAL_BATCH_SIZE": total,
            **_SHARED_KNOBS,
        },
        ranges={},
        constants=_GPU_CONSTANTS,
        budget=_GPU_BUDGET,
        caps=Caps(memory_mib=None, vram_mib=int(vram_gib * 1024), processes=512, file_mib=4096, log_kib=2048),
        baseline_repeats=3,
        sigma_floor=0.0008,
    )


def _scaled_to_cpu(reference: Profile) -> Profile:
    """Derive the profile `cpu`: sizes and their ranges shrink by powers of two, the other knobs stay.

    Depth and head size become a quarter, context and vocabulary an eighth, tokens in a step a 256th (one batch of 8
    rows). The budget becomes a twentieth, in processor seconds, because a CPU is shared.
    """
    knobs = dict(reference.knobs)
    context = reference.context // 8
    knobs["DEPTH"] = int(knobs["DEPTH"]) // 4
    knobs["HEAD_DIM"] = int(knobs["HEAD_DIM"]) // 4
    knobs["TOTAL_BATCH_SIZE"] = int(knobs["TOTAL_BATCH_SIZE"]) // 256
    knobs["DEVICE_BATCH_SIZE"] = int(knobs["TOTAL_BATCH_SIZE"]) // context
    constants = {
        "MAX_SEQ_LEN": context,
        "TIME_BUDGET": reference.constants["TIME_BUDGET"] // 20,
        "VOCAB_SIZE": reference.vocab_size // 8,
    }
    budget = replace(
        reference.budget,
        amount=constants["TIME_BUDGET"],
        clock=Clock.PROCESSOR,
        warmup_steps=0,
        warmup_cap_s=0,
        setup_s=60,
        scoring_s=180,
        eval_rows=256,
        heldout_rows=256,
        unseen_rows=256,
    )
    caps = Caps(memory_mib=4096, vram_mib=None, processes=256, file_mib=1024, log_kib=2048)
    return replace(
        reference,
        name="cpu",
        device="cpu",
        gpu_gib=0,
        text="plays",
        knobs=knobs,
        ranges={
            "DEPTH": "range 1..6",
            "HEAD_DIM": "range 2**4..2**6 pow2",
            "TOTAL_BATCH_SIZE": "range 2**8..2**13 pow2",
            "DEVICE_BATCH_SIZE": "range 2**1..2**5 pow2",
        },
        constants=constants,
        budget=budget,
        caps=caps,
        baseline_repeats=5,
        sigma_floor=0.003,
    )


_REFERENCE = _gpu("80gb", 76, 60, depth=8, batch=128, total=2**19)

PROFILES: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        _scaled_to_cpu(_REFERENCE),
        _gpu("12gb", 11, 9.5, depth=4, batch=32, total=2**16),
        _gpu("16gb", 15, 13.5, depth=4, batch=32, total=2**16),
        _gpu("24gb", 22, 10, depth=4, batch=32, total=2**16),
        _gpu("48gb", 44, 30, depth=8, batch=64, total=2**18),
        _REFERENCE,
        _gpu("fork", 44, 30, depth=4, batch=32, total=2**16, windows="L"),
    )
}
