"""GroupQueryAttention over one shared buffer against numpy, sequence by sequence."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx_ir.passes import common

from edgekiln.errors import UnsupportedModelError
from edgekiln.export.functions.rotary_attention import ATTENTIONS
from edgekiln.export.passes.ort.group_query_attention import LowerToGroupQueryAttention
from edgekiln.runtimes.base import KernelsChoice
from support.graphs import graph, node, ops, run_reference, session

MAX_LENGTH = 32
CAPACITY = 16


@dataclass
class Case:
    """One attention layer.

    Attributes:
        source: where query, key and value come from: `split` or `slices` of one tensor, inputs of their own (`apart`),
            or inputs [B, H, S, D] (`by_head`).
        rotary: `position` angles, `input` where a second graph input scales them, `key_only`, or `none`.
        rotary_dim: elements of a head that are rotated.
    """

    source: str = "split"
    rotary: str = "position"
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    rotary_dim: int = 16
    interleaved: int = 0
    reshape_after: bool = True
    attributes: dict[str, Any] = field(default_factory=lambda: {"scale": 0.25, "window": 0, "softcap": 0.0})

    @property
    def widths(self) -> list[int]:
        return [self.heads * self.head_dim, self.kv_heads * self.head_dim, self.kv_heads * self.head_dim]

    def model(self) -> ir.Model:
        """The canonical graph: qkv (or q, k and v), position_ids and past to out and present."""
        widths, names = self.widths, ["q", "k", "v"]
        counts = [self.heads, self.kv_heads, self.kv_heads]
        weights: dict[str, np.ndarray] = {}
        nodes: list[onnx.NodeProto] = []
        inputs: dict[str, list[int | str]] = {"position_ids": ["B", "S"]}
        if self.source == "apart":
            inputs |= {name: ["B", "S", width] for name, width in zip(names, widths, strict=True)}
        elif self.source == "by_head":
            inputs |= {
                f"{name}.heads": ["B", count, "S", self.head_dim] for name, count in zip(names, counts, strict=True)
            }
        else:
            inputs["qkv"] = ["B", "S", sum(widths)]
            nodes += self._parts(weights, [0, *np.cumsum(widths).tolist()])
        for name, count in zip(names, counts, strict=True):
            if self.source != "by_head":
                weights[f"{name}.shape"] = np.array([0, 0, count, self.head_dim])
                nodes += [
                    node("Reshape", [name, f"{name}.shape"], f"{name}.split"),
                    node("Transpose", [f"{name}.split"], f"{name}.heads", perm=[0, 2, 1, 3]),
                ]
        query, key = self._rotate(nodes, weights, inputs)
        past: list[int | str] = ["B", self.kv_heads, "P", self.head_dim]
        inputs |= {"past.0.key": past, "past.0.value": past}
        nodes += [
            *self._start(weights),
            node(
                "Attention",
                [query, key, "v.heads", "past.0.key", "past.0.value", "start"],
                ["attended", "present.0.key", "present.0.value"],
                **self.attributes,
            ),
        ]
        weights["flat"] = np.array([0, 0, widths[0]])
        nodes.append(
            node("Reshape", ["attended", "flat"], "out") if self.reshape_after else node("Neg", ["attended"], "out")
        )
        present: list[int | str] = ["B", self.kv_heads, "T", self.head_dim]
        by_head: list[int | str] = ["B", "S", self.heads, self.head_dim]
        out = ["B", "S", widths[0]] if self.reshape_after else by_head
        outputs = {"out": out, "present.0.key": present, "present.0.value": present}
        return graph(nodes, inputs, outputs, weights, {"attended": by_head})

    def _parts(self, weights: dict[str, np.ndarray], bounds: list[int]) -> list[onnx.NodeProto]:
        if self.source == "split":
            weights["sizes"] = np.array(self.widths)
            return [node("Split", ["qkv", "sizes"], ["q", "k", "v"], axis=-1)]
        weights["axis"] = np.array([2])
        nodes = []
        for i, name in enumerate("qkv"):
            # Exporters give the last slice an end far beyond the tensor.
            end = 2**62 if name == "v" else bounds[i + 1]
            weights[f"{name}.from"], weights[f"{name}.to"] = np.array([bounds[i]]), np.array([end])
            nodes.append(node("Slice", ["qkv", f"{name}.from", f"{name}.to", "axis"], name))
        return nodes

    def _rotate(
        self, nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], inputs: dict[str, list[int | str]]
    ) -> tuple[str, str]:
        if self.rotary == "none":
            return "q.heads", "k.heads"
        half = self.rotary_dim // 2
        weights["frequencies"] = (0.3 ** np.arange(half)).astype(np.float32)[None, None]
        weights["axes"] = np.array([-1])
        nodes += [
            node("Cast", ["position_ids"], "positions", to=int(onnx.TensorProto.FLOAT)),
            node("Unsqueeze", ["positions", "axes"], "column"),
            node("Mul", ["column", "frequencies"], "plain"),
        ]
        angles = "plain"
        if self.rotary == "input":
            inputs["factor"] = [1]
            nodes.append(node("Mul", ["plain", "factor"], "scaled"))
            angles = "scaled"
        nodes += [node("Cos", [angles], "cos"), node("Sin", [angles], "sin")]
        attributes = {"interleaved": self.interleaved}
        if self.rotary_dim != self.head_dim:
            attributes["rotary_embedding_dim"] = self.rotary_dim
        rotated = []
        for name in "qk":
            if self.rotary == "key_only" and name == "q":
                rotated.append("q.heads")
                continue
            nodes.append(node("RotaryEmbedding", [f"{name}.heads", "cos", "sin"], f"{name}.rotated", **attributes))
            rotated.append(f"{name}.rotated")
        return rotated[0], rotated[1]

    def _start(self, weights: dict[str, np.ndarray]) -> list[onnx.NodeProto]:
        """past length + new length - 1 - last position, as the tracer writes it."""
        weights |= {"last": np.array(-1), "one": np.array(1)}
        return [
            node("Shape", ["past.0.key"], "past_length", start=2, end=3),
            node("Shape", ["position_ids"], "new_length", start=1, end=2),
            node("Add", ["past_length", "new_length"], "total"),
            node("Sub", ["total", "one"], "last_slot"),
            node("Gather", ["position_ids", "last"], "last_position", axis=1),
            node("Sub", ["last_slot", "last_position"], "start"),
        ]


def feeds_of(case: Case, rng: np.random.Generator, length: int, factor: float = 0.7) -> dict[str, np.ndarray]:
    """Query, key and value of one sequence of new tokens."""
    counts = (case.heads, case.kv_heads, case.kv_heads)
    if case.source == "apart":
        feeds = {n: rng.standard_normal((1, length, w), np.float32) for n, w in zip("qkv", case.widths, strict=True)}
    elif case.source == "by_head":
        feeds = {
            f"{n}.heads": rng.standard_normal((1, count, length, case.head_dim), np.float32)
            for n, count in zip("qkv", counts, strict=True)
        }
    else:
        feeds = {"qkv": rng.standard_normal((1, length, sum(case.widths)), np.float32)}
    return feeds


def check(case: Case, pasts: list[int], length: int, kernels: KernelsChoice, cache_bytes: int = 0) -> ir.Model:
    """Compare sequences with `pasts` cached and `length` new tokens; return the lowered graph."""
    rng = np.random.default_rng(0)
    canonical, lowered = case.model(), case.model()
    shared = {"factor": np.array([0.7], np.float32)} if case.rotary == "input" else {}
    feeds_of_each, expected, positions = [], [], []
    buffers = {
        name: rng.standard_normal((len(pasts), case.kv_heads, CAPACITY, case.head_dim), np.float32)
        for name in ("key", "value")
    }
    for sequence, past in enumerate(pasts):
        feeds_of_each.append(feeds_of(case, rng, length))
        positions.append(np.arange(past, past + length))
        held = {f"past.0.{name}": buffer[sequence : sequence + 1, :, :past].copy() for name, buffer in buffers.items()}
        expected.append(
            run_reference(canonical, {**feeds_of_each[-1], **held, **shared, "position_ids": positions[-1][None]})
        )
    LowerToGroupQueryAttention(MAX_LENGTH, rotary_cache_bytes=cache_bytes)(lowered)
    common.RemoveUnusedNodesPass()(lowered)
    feeds = {name: np.concatenate([single[name] for single in feeds_of_each]) for name in feeds_of_each[0]} | {
        "position_ids": np.stack(positions),
        **shared,
    }
    out = run_shared(session(lowered, kernels), feeds, buffers)
    for sequence, (past, wanted) in enumerate(zip(pasts, expected, strict=True)):
        np.testing.assert_allclose(out[sequence : sequence + 1], wanted[0], atol=1e-5)
        for name, present in zip(("key", "value"), wanted[1:], strict=True):
            np.testing.assert_allclose(buffers[name][sequence : sequence + 1, :, : past + length], present, atol=1e-5)
    return lowered


def attentions(model: ir.Model) -> list[ir.Node]:
    return [node for node in model.graph if node.op_type in ATTENTIONS]


def run_shared(
    lowered: ort.InferenceSession, feeds: dict[str, np.ndarray], buffers: dict[str, np.ndarray]
) -> np.ndarray:
    """Run with each buffer bound as past and as present; returns `out`."""
    binding = lowered.io_binding()
    for name, array in feeds.items():
        binding.bind_cpu_input(name, array)
    binding.bind_output("out")
    for name, buffer in buffers.items():
        value = ort.OrtValue.ortvalue_from_numpy(buffer)
        binding.bind_ortvalue_input(f"past.0.{name}", value)
        binding.bind_ortvalue_output(f"present.0.{name}", value)
    lowered.run_with_iobinding(binding)
    return binding.get_outputs()[0].numpy()


# A prompt, a later chunk, a decode step of a ragged batch, a batch of prompts.
STEPS = [([0], 6), ([5], 4), ([3, 7, 0], 1), ([0, 0], 5)]


# Of a rotary cache of MAX_LENGTH positions.
CACHE_BYTES = MAX_LENGTH * 16 * 4
LENGTHS = ["Add", "Cast", "Gather", "ReduceMax"]
ANGLES = ["Cast", "Cos", "Mul", "Sin", "Unsqueeze"]


@pytest.mark.parametrize(("pasts", "length"), STEPS)
@pytest.mark.parametrize("source", ["split", "slices"])
def test_packed_with_rotary_folded(source: str, pasts: list[int], length: int, kernels: KernelsChoice) -> None:
    lowered = check(Case(source=source), pasts, length, kernels)
    assert ops(lowered) == sorted([*LENGTHS, *ANGLES, "PackedRotaryAttention"])
    (attention,) = attentions(lowered)
    assert attention.inputs[1] is None
    assert attention.inputs[2] is None


@pytest.mark.parametrize(("pasts", "length"), STEPS)
def test_unpacked(pasts: list[int], length: int, kernels: KernelsChoice) -> None:
    lowered = check(Case(source="apart"), pasts, length, kernels)
    assert ops(lowered) == sorted([*LENGTHS, *ANGLES, "RotaryAttention"])


@pytest.mark.parametrize(("pasts", "length"), STEPS)
@pytest.mark.parametrize("source", ["split", "apart"])
def test_a_rotary_cache(source: str, pasts: list[int], length: int, kernels: KernelsChoice) -> None:
    lowered = check(Case(source=source), pasts, length, kernels, CACHE_BYTES)
    assert ops(lowered) == sorted([*LENGTHS, "GroupQueryAttention"])
    too_large = Case(source=source).model()
    LowerToGroupQueryAttention(MAX_LENGTH, rotary_cache_bytes=CACHE_BYTES - 1)(too_large)
    assert not any(node.op_type == "GroupQueryAttention" for node in too_large.graph)


@pytest.mark.parametrize(("pasts", "length"), STEPS)
def test_heads_without_a_reshape(pasts: list[int], length: int, kernels: KernelsChoice) -> None:
    check(Case(source="by_head"), pasts, length, kernels)


@pytest.mark.parametrize(("pasts", "length"), STEPS)
def test_angles_that_depend_on_more_than_the_position(pasts: list[int], length: int, kernels: KernelsChoice) -> None:
    lowered = check(Case(source="split", rotary="input"), pasts, length, kernels, CACHE_BYTES)
    assert "PackedRotaryAttention" in ops(lowered)


@pytest.mark.parametrize(("pasts", "length"), STEPS)
def test_rotary_of_keys_alone_stays_an_op(pasts: list[int], length: int, kernels: KernelsChoice) -> None:
    lowered = check(Case(source="split", rotary="key_only"), pasts, length, kernels)
    assert ops(lowered).count("RotaryEmbedding") == 1


@pytest.mark.parametrize(("pasts", "length"), STEPS)
def test_without_rotary(pasts: list[int], length: int, kernels: KernelsChoice) -> None:
    lowered = check(Case(rotary="none"), pasts, length, kernels)
    assert ops(lowered) == sorted([*LENGTHS, "GroupQueryAttention"])


@pytest.mark.parametrize(("pasts", "length"), STEPS)
@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize(("head_dim", "rotary_dim"), [(32, 16), (32, 32), (16, 8), (24, 24), (8, 8)])
def test_partial_and_interleaved_rotary(
    head_dim: int,
    rotary_dim: int,
    interleaved: int,
    cache_bytes: int,
    pasts: list[int],
    length: int,
    kernels: KernelsChoice,
) -> None:
    case = Case(head_dim=head_dim, rotary_dim=rotary_dim, interleaved=interleaved)
    lowered = check(case, pasts, length, kernels, cache_bytes)
    # GroupQueryAttention takes rotary caches whose half is a multiple of 8.
    assert ("GroupQueryAttention" in ops(lowered)) == (cache_bytes > 0 and rotary_dim // 2 % 8 == 0)


@pytest.mark.parametrize(("pasts", "length"), STEPS)
@pytest.mark.parametrize(
    "attributes",
    [
        {"scale": 0.25, "window": 3, "softcap": 0.0},
        {"scale": 0.25, "window": 1, "softcap": 0.0},
        {"scale": 1.5, "window": 0, "softcap": 2.0},
        {"scale": 1.0, "window": 4, "softcap": 5.0},
    ],
)
def test_scale_window_and_softcap(
    attributes: dict[str, Any], pasts: list[int], length: int, kernels: KernelsChoice
) -> None:
    check(Case(attributes=attributes), pasts, length, kernels)


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2), (4, 1)])
def test_query_heads_that_share_keys(heads: int, kv_heads: int, kernels: KernelsChoice) -> None:
    check(Case(heads=heads, kv_heads=kv_heads), [3, 7, 0], 1, kernels)


def test_output_without_a_reshape(kernels: KernelsChoice) -> None:
    lowered = check(Case(reshape_after=False), [3, 7, 0], 1, kernels)
    assert "Neg" in ops(lowered)


def test_parts_out_of_order_are_not_packed() -> None:
    model = Case().model()
    (split,) = [n for n in model.graph if n.op_type == "Split"]
    first, second = split.outputs[1], split.outputs[2]
    users = {value: [(use.node, use.idx) for use in value.uses()] for value in (first, second)}
    for value, other in ((first, second), (second, first)):
        for user, index in users[value]:
            user.replace_input_with(index, other)
    LowerToGroupQueryAttention(MAX_LENGTH)(model)
    (attention,) = attentions(model)
    assert attention.inputs[1] is second
    assert attention.inputs[2] is first


@pytest.mark.parametrize("head_dim", [4, 12, 20])
def test_unsupported_head_sizes_are_refused(head_dim: int) -> None:
    with pytest.raises(UnsupportedModelError, match=f"heads of {head_dim} elements are not a multiple of 8"):
        LowerToGroupQueryAttention(MAX_LENGTH)(Case(head_dim=head_dim, rotary_dim=head_dim).model())
