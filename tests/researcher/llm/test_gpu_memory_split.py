"""Where the LLM goes, and the arithmetic of one GPU for two."""

from __future__ import annotations

import pytest

from researcher.llm.gpu_memory_split import LEAST_CAP_MIB, Split, margin_mib, placement_for, split_for
from trainer.jobs import PROFILES, Profile, ProfileError

GPU_PROFILES = [profile for profile in PROFILES.values() if profile.device == "cuda"]


def named(profile: Profile) -> str:
    return profile.name


@pytest.mark.parametrize("profile", GPU_PROFILES, ids=named)
def test_every_profile_fits_the_smallest_gpu_it_is_chosen_for(profile: Profile) -> None:
    split = split_for(profile, int(profile.gpu_gib * 1024))

    assert split.fits, split.text()


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_has_a_placement_and_only_a_gpu_has_a_reserve(name: str) -> None:
    placement = placement_for(name)

    assert (placement.reserve_mib is None) == (PROFILES[name].device == "cpu")
    assert placement.num_ctx >= 16384


def test_an_unknown_profile_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ProfileError, match=r"'auto' is not known; choose one of: cpu, 12gb"):
        placement_for("auto")


@pytest.mark.parametrize(
    ("split", "text"),
    [
        (
            Split(45000, 12288, 31744, 2048),
            "45000 total - 12288 LLM - 31744 trainer - 2048 margin = -1080 MiB: does not fit; "
            "lower TRAINER_CAP_MIB to 30664",
        ),
        (
            Split(49140, 12288, 30720, 2048),
            "49140 total - 12288 LLM - 30720 trainer - 2048 margin = 4084 MiB free",
        ),
        (
            Split(12288, 6656, 9728, 1536, resident=False),
            "12288 total - the larger of 6656 LLM and 9728 trainer, in turn - 1536 margin = 1024 MiB free",
        ),
        (
            Split(11264, 6656, 10240, 1536, resident=False),
            "11264 total - the larger of 6656 LLM and 10240 trainer, in turn - 1536 margin = -512 MiB: does not fit; "
            "lower TRAINER_CAP_MIB to 9728",
        ),
        (
            Split(12288, 10240, 9728, 1536),
            "12288 total - 10240 LLM - 9728 trainer - 1536 margin = -9216 MiB: does not fit; "
            "set a smaller MODEL or NUM_CTX and lower LLM_RESERVE_MIB, or set LLM=none",
        ),
        (
            Split(8192, 10240, 4096, 1536, resident=False),
            "8192 total - the larger of 10240 LLM and 4096 trainer, in turn - 1536 margin = -3584 MiB: does not fit; "
            "set a smaller MODEL or NUM_CTX and lower LLM_RESERVE_MIB, or set LLM=none",
        ),
    ],
)
def test_a_split_is_told_as_arithmetic_with_the_way_out(split: Split, text: str) -> None:
    assert split.text() == text


@pytest.mark.parametrize("profile", GPU_PROFILES, ids=named)
def test_the_cap_it_asks_for_fits(profile: Profile) -> None:
    too_much = split_for(profile, int(profile.gpu_gib * 1024), cap_mib=100_000)

    assert not too_much.fits
    assert too_much.largest_cap_mib >= LEAST_CAP_MIB
    assert split_for(profile, too_much.total_mib, cap_mib=too_much.largest_cap_mib).fits
    assert not split_for(profile, too_much.total_mib, cap_mib=too_much.largest_cap_mib + 1).fits


def test_without_an_llm_the_trainer_may_have_its_share() -> None:
    split = split_for(PROFILES["48gb"], 46068, reserve_mib=0)

    assert split.largest_cap_mib == 46068 - 2048


@pytest.mark.parametrize(("total_mib", "margin"), [(11264, 1536), (16376, 1536), (22528, 2048), (24564, 2048)])
def test_the_margin_is_larger_from_24_gb_gpus_on(total_mib: int, margin: int) -> None:
    assert margin_mib(total_mib) == margin
