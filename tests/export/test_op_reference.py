"""The numpy reference ops against torch's attention and the quantizer's dequantized weights."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekiln.calib.formats.scheme import Scheme
from edgekiln.export import op_reference as reference
from support.graphs import quantized


@st.composite
def attentions(draw: st.DrawFn) -> dict[str, Any]:
    """Arguments of `reference.attention`, with sequences of different left padding."""
    size = st.integers(1, 4)
    batch, kv_heads, share, length, past = draw(size), draw(size), draw(size), draw(size), draw(st.integers(0, 5))
    head_dim = draw(st.sampled_from([1, 4, 8]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    return {
        "query": normal(batch, kv_heads * share, length, head_dim),
        "key": normal(batch, kv_heads, length, head_dim),
        "value": normal(batch, kv_heads, length, head_dim),
        "past_key": normal(batch, kv_heads, past, head_dim),
        "past_value": normal(batch, kv_heads, past, head_dim),
        "start": rng.integers(0, past + length, batch),
        "scale": draw(st.sampled_from([0.1, 1.0, 3.0])),
        "window": draw(st.integers(0, 6)),
        "chunk": draw(st.sampled_from([0, 0, 3])),
        "slopes": draw(st.sampled_from([None, normal(kv_heads * share)])),
    }


def by_torch(arguments: dict[str, Any]) -> np.ndarray:
    """torch's attention with the mask built element by element; padding queries give 0."""
    key = np.concatenate([arguments["past_key"], arguments["key"]], axis=2)
    value = np.concatenate([arguments["past_value"], arguments["value"]], axis=2)
    batch, _, length, _ = arguments["query"].shape
    past, total = arguments["past_key"].shape[2], key.shape[2]
    slopes = arguments["slopes"]
    mask = torch.zeros(batch, 1, length, total, dtype=torch.bool)
    bias = torch.zeros(batch, arguments["query"].shape[1], length, total, dtype=torch.float64)
    for row in range(batch):
        for i in range(length):
            for slot in range(total):
                own = past + i
                inside = not arguments["window"] or own - slot < arguments["window"]
                if arguments["chunk"]:
                    start = arguments["start"][row]
                    inside &= (own - start) // arguments["chunk"] == (slot - start) // arguments["chunk"]
                if slopes is not None:
                    bias[row, :, i, slot] = torch.from_numpy(slopes) * (slot - own)
                mask[row, 0, i, slot] = bool(arguments["start"][row] <= slot <= own and inside)
    out = torch.nn.functional.scaled_dot_product_attention(
        torch.from_numpy(arguments["query"]).double(),
        torch.from_numpy(key).double(),
        torch.from_numpy(value).double(),
        attn_mask=bias.masked_fill(~mask, -torch.inf),
        scale=arguments["scale"],
        enable_gqa=True,
    )
    return torch.where(mask.any(dim=-1, keepdim=True), out, 0.0).transpose(1, 2).numpy()


@settings(deadline=None, max_examples=100)
@given(attentions())
def test_attention_matches_torch(arguments: dict[str, Any]) -> None:
    out, key, value = reference.attention(**arguments)
    np.testing.assert_allclose(out, by_torch(arguments), atol=1e-5)
    assert out.dtype == np.float32
    np.testing.assert_array_equal(key, np.concatenate([arguments["past_key"], arguments["key"]], axis=2))
    np.testing.assert_array_equal(value, np.concatenate([arguments["past_value"], arguments["value"]], axis=2))


def test_softcap_bounds_the_scores() -> None:
    # Two keys with scores 30 and 0, capped at 2: weights are softmax([2 tanh 15, 0]).
    query, past = np.full((1, 1, 1, 1), 30.0), np.array([1.0]).reshape(1, 1, 1, 1)
    values = np.array([[[[1.0]]]]), np.array([[[[0.0]]]])
    out, _, _ = reference.attention(
        query, np.zeros((1, 1, 1, 1)), values[1], past, values[0], np.zeros(1, np.int64), scale=1.0, softcap=2.0
    )
    np.testing.assert_allclose(out.item(), np.exp(2) / (np.exp(2) + 1), rtol=1e-9)


def test_sinks_take_part_in_the_softmax() -> None:
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((2, 4, 5, 8)) for _ in range(3))
    none, sinks = np.zeros((2, 4, 0, 8)), rng.standard_normal(4)
    plain, _, _ = reference.attention(q, k, v, none, none, np.array([0, 2]), scale=1.0)
    out, _, _ = reference.attention(q, k, v, none, none, np.array([0, 2]), sinks, scale=1.0)
    scores = torch.from_numpy(q @ k.swapaxes(2, 3)).masked_fill(~torch.ones(5, 5).tril().bool(), -torch.inf)
    scores[1, :, :, :2] = -torch.inf
    # Attention with a sink is plain attention, scaled by sigmoid(log-sum-exp of the scores - sink).
    shares = torch.sigmoid(torch.logsumexp(scores, dim=-1) - torch.from_numpy(sinks)[None, :, None]).nan_to_num()
    np.testing.assert_allclose(out, plain * shares.transpose(1, 2)[..., None].numpy(), atol=1e-12)


def test_falcon_rounds_alibi_to_bfloat16() -> None:
    query, slopes = np.zeros((1, 1, 1, 1)), np.array([0.3], np.float32)
    past = np.zeros((1, 1, 300, 1))
    values = np.arange(300.0).reshape(1, 1, 300, 1)
    out, _, _ = reference.attention(
        query, query, query, past, values, np.zeros(1, np.int64), None, slopes, scale=0.25, bfloat16_alibi=1
    )
    positions = torch.arange(301)
    weights = torch.softmax((torch.tensor(0.3).bfloat16() * positions).float() * 0.25, dim=0)
    np.testing.assert_allclose(out.item(), float((weights[:300] * torch.arange(300.0)).sum()), rtol=1e-5)


def test_padding_does_not_change_a_sequence() -> None:
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((1, 2, 5, 8)) for _ in range(3))
    none = np.zeros((1, 2, 0, 8))
    alone, _, _ = reference.attention(q, k, v, none, none, np.array([0]), scale=1.0)
    padded = [np.concatenate([rng.standard_normal((1, 2, 3, 8)), x], axis=2) for x in (q, k, v)]
    out, _, _ = reference.attention(*padded, none, none, np.array([3]), scale=1.0)
    np.testing.assert_allclose(out[:, 3:], alone, atol=1e-12)
    assert (out[:, :3] == 0).all(), "a padding position sees nothing and gives zeros, not NaN"


@pytest.mark.parametrize(
    "scheme",
    [
        Scheme(bits=4, group_size=32, symmetric=False, activation="none"),
        Scheme(bits=8, group_size=64, symmetric=False, activation="none"),
        Scheme(bits=8, group_size=None, symmetric=True, activation="int8-per-token"),
    ],
)
def test_dequantize_matches_the_quantizer(scheme: Scheme) -> None:
    weight = np.random.default_rng(0).standard_normal((6, 192), dtype=np.float32)
    tensors, stored = quantized("w", weight, scheme)
    arrays = [*tensors.values(), None][:3]
    result = reference.dequantize(*arrays, bits=scheme.bits, group_size=scheme.group_size or 0)
    np.testing.assert_allclose(result, stored, rtol=1e-6)


def test_static_activations_are_quantized_as_onnx_does() -> None:
    x = np.array([[0.25, -0.25, 0.75, 1.0], [70.0, -70.0, 63.5, -64.0]], np.float32)
    expected = [[0.0, 0.0, 1.0, 1.0], [63.5, -64.0, 63.5, -64.0]]
    np.testing.assert_array_equal(reference.quantize_input(x, np.float32(0.5)), expected)


def test_tokens_are_quantized_one_by_one() -> None:
    x = np.array([[127.0, 0.4, -0.6], [1.27e6, 12699.0, 0.0], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(reference.quantize_tokens(x), [[127, 0, -1], [1.27e6, 10000, 0], [0, 0, 0]])
