"""Choice of the optimization profile, alignment, and error messages; no library is needed."""

import pytest

from edgekiln.engine.manifest import TensorRTBuild
from edgekiln.errors import RequestError
from edgekiln.runtimes.kv_cache import batch_slice
from edgekiln.runtimes.tensorrt.profiles import (
    CachePart,
    Profile,
    check_alignment,
    largest_batch,
    largest_chunk,
    profile_for,
    why_refused,
)

PREFILL, DECODE = Profile((1, 1), (1, 512)), Profile((1, 8), (1, 1))


@pytest.mark.parametrize("profiles", [[PREFILL, DECODE], [DECODE, PREFILL]])
@pytest.mark.parametrize(
    ("batch", "tokens", "expected"),
    [(1, 512, PREFILL), (1, 2, PREFILL), (1, 1, DECODE), (8, 1, DECODE)],
)
def test_the_profile_with_the_fewest_tokens_is_chosen(
    profiles: list[Profile], batch: int, tokens: int, expected: Profile
) -> None:
    assert profiles[profile_for(profiles, batch, tokens)] == expected


def test_one_profile_for_all() -> None:
    assert profile_for([Profile((1, 4), (1, 128))], 3, 1) == 0


def test_a_batch_size_that_no_profile_supports() -> None:
    with pytest.raises(RequestError, match=r"^batch size 9 is above the 8 .* built for: build it with --max-batch 9$"):
        profile_for([PREFILL, DECODE], 9, 1)


def test_a_shape_that_no_profile_supports() -> None:
    expected = (
        r"^the engine takes 1 to 1 sequences of 2 to 4, 1 to 8 sequences of 1 to 1 tokens a run, "
        r"not 1 sequences of 5: build"
    )
    with pytest.raises(RequestError, match=expected):
        profile_for([Profile((1, 1), (2, 4)), DECODE], 1, 5)


def test_limits() -> None:
    assert (largest_batch([PREFILL, DECODE]), largest_chunk([PREFILL, DECODE])) == (8, 512)
    assert largest_batch([PREFILL]) == 1
    assert largest_chunk([Profile((2, 4), (1, 8))]) == 0


def test_sequences_that_are_not_aligned() -> None:
    part = CachePart("past.0.key", "present.0.key", heads=3, head_dim=64)
    check_alignment([part], 512, 2)
    expected = (
        r"^a sequence of past.0.key has 196224 bytes, no multiple of 256, .* a --max-length that is a multiple of 256$"
    )
    with pytest.raises(RequestError, match=expected):
        check_alignment([part], 511, 2)


def test_a_sequence_is_a_slice_of_the_buffer() -> None:
    address, shape = batch_slice(4096, (4, 3, 512, 64), slice(2, 3), 2)
    assert (address, shape) == (4096 + 2 * 3 * 512 * 64 * 2, [1, 3, 512, 64])


@pytest.mark.parametrize(
    ("version", "capability", "expected"),
    [
        ("10.13", "8.9", "the plan was built with tensorrt 10.9, this machine has 10.13: "),
        (
            "10.9",
            "9.0",
            "the plan was built for compute capability 8.6, 8.9, this GPU has 9.0: build the engine on it",
        ),
        ("10.9", "8.9", "tensorrt 10.9 cannot load the plan (bad tag): build the engine again"),
    ],
)
def test_why_a_plan_is_refused(version: str, capability: str, expected: str) -> None:
    build = TensorRTBuild(
        library="tensorrt", version="10.9", compute_capabilities=["8.6", "8.9"], max_batch=8, prefill_chunk=512
    )
    assert why_refused(build, version, capability, "bad tag").startswith(expected)
