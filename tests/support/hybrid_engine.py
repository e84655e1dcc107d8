"""Engines with states: a tiny decoder of short convolutions, linear attention and attention, which is also in numpy,
and tiny models of transformers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from edgekiln.engine.directory import CHAT_TEMPLATE_FILE, TOKENIZER_FILE
from edgekiln.engine.graph_io import GraphIO
from edgekiln.engine.manifest import (
    Architecture,
    KVCacheSpec,
    QuantizationRecipe,
    SamplingDefaults,
    SpecialTokens,
    StateSpec,
    write_manifest,
)
from edgekiln.export.lower.ort_cuda import growth_graph
from support.models import CHAT_TEMPLATE, VOCABULARY, save_model, tiny_tokenizer

Kind = Literal["conv", "linear", "attention"]
HYBRID: tuple[Kind, ...] = ("conv", "attention", "linear", "attention", "linear")
RECURRENT: tuple[Kind, ...] = ("conv", "linear")
HEADS, KV_HEADS, HEAD_DIM, KERNEL = 4, 2, 16, 4
HIDDEN = HEADS * HEAD_DIM
MAX_LENGTH = 3000
_EPSILON = 1e-6
_SHAPES: dict[Kind, list[int]] = {"conv": [HIDDEN, KERNEL - 1], "linear": [HEADS, HEAD_DIM, HEAD_DIM]}


@dataclass
class HybridDecoder:
    """Embedding, residual layers on normalized inputs, and an LM head that is not tied."""

    kinds: Sequence[Kind]
    weights: dict[str, np.ndarray]

    @classmethod
    def random(cls, kinds: Sequence[Kind] = HYBRID, seed: int = 0) -> "HybridDecoder":
        """Random weights of which every layer matters."""
        random = np.random.default_rng(seed)

        def normal(scale: float, *shape: int) -> np.ndarray:
            return random.normal(0, scale, shape).astype(np.float32)

        angle = np.arange(MAX_LENGTH)[:, None] * 100.0 ** (-np.arange(HEAD_DIM // 2) * 2 / HEAD_DIM)
        weights = {
            "embedding": normal(1, VOCABULARY, HIDDEN),
            "head": normal(1, HIDDEN, VOCABULARY),
            "cos": np.cos(angle).astype(np.float32),
            "sin": np.sin(angle).astype(np.float32),
        }
        for layer, kind in enumerate(kinds):
            kv = KV_HEADS if kind == "attention" else HEADS
            if kind == "conv":
                weights[f"conv{layer}"] = normal(0.5, HIDDEN, 1, KERNEL)
            else:
                for name, heads in (("q", HEADS), ("k", kv), ("v", kv)):
                    weights[f"{name}{layer}"] = normal(0.3, HIDDEN, heads * HEAD_DIM)
            if kind == "linear":
                weights[f"g{layer}"] = normal(0.1, HIDDEN, HEADS)
        return cls(kinds, weights)

    def forward(self, ids: np.ndarray) -> np.ndarray:
        """Logits float64[S, V] of int64[S] `ids`, token by token from zero states and over all keys."""
        w, length = self.weights, len(ids)
        x = w["embedding"][ids].astype(np.float64)
        for layer, kind in enumerate(self.kinds):
            y = x / np.sqrt((x * x).mean(-1, keepdims=True) + _EPSILON)
            if kind == "conv":
                padded = np.concatenate([np.zeros((KERNEL - 1, HIDDEN)), y])
                y = sum(padded[i : i + length] * w[f"conv{layer}"][:, 0, i] for i in range(KERNEL))
                x = x + y / (1 + np.exp(-y))
                continue
            query, key, value = ((y @ w[f"{name}{layer}"]).reshape(length, -1, HEAD_DIM) for name in "qkv")
            if kind == "linear":
                decay = np.exp(-np.logaddexp(0, y @ w[f"g{layer}"]))
                x = x + _linear_attention(query, key, value, decay).reshape(length, HIDDEN)
            else:
                x = x + _attention(self._rotate(query), self._rotate(key), value).reshape(length, HIDDEN)
        return x @ w["head"]

    def _rotate(self, x: np.ndarray) -> np.ndarray:
        half = HEAD_DIM // 2
        cos, sin = (self.weights[name][: len(x), None] for name in ("cos", "sin"))
        first, second = x[..., :half], x[..., half:]
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)

    def graph(self, every_position: bool, cuda: bool) -> onnx.ModelProto:
        """The ONNX graph, whose keys and values are in a shared buffer.

        Args:
            every_position: with logits of every position, instead of the last one.
            cuda: as for ort-cuda: float16 keys, values and states of convolutions, and an input for the total length.
        """
        return _Graph(self, np.float16 if cuda else np.float32, cuda).build(every_position)


def _linear_attention(query: np.ndarray, key: np.ndarray, value: np.ndarray, decay: np.ndarray) -> np.ndarray:
    state = np.zeros((HEADS, HEAD_DIM, HEAD_DIM))
    outputs = []
    for q, k, v, g in zip(query, key, value, decay, strict=True):
        state = state * g[:, None, None] + k[:, :, None] * v[:, None, :]
        outputs.append(np.einsum("hk,hkv->hv", q, state) / np.sqrt(HEAD_DIM))
    return np.array(outputs)


def _attention(query: np.ndarray, key: np.ndarray, value: np.ndarray) -> np.ndarray:
    key, value = (np.repeat(part, HEADS // KV_HEADS, axis=1) for part in (key, value))
    scores = np.einsum("qhd,khd->hqk", query, key) / np.sqrt(HEAD_DIM)
    scores += np.triu(np.full(scores.shape[1:], -np.inf), 1)
    weight = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("hqk,khd->qhd", weight / weight.sum(-1, keepdims=True), value)


class _Graph:
    def __init__(self, decoder: HybridDecoder, dtype: Any, total_length: bool) -> None:
        self._decoder = decoder
        self._dtype = dtype
        self._half = dtype == np.float16
        self._constants = {"last": np.array([-1]), "one": np.array(1), "axis": np.array([1])}
        self._constants |= {"scale": np.ones(HIDDEN, np.float32), **decoder.weights}
        self._nodes: list[onnx.NodeProto] = []
        self._inputs = [_value(name, np.int64, ["B", "S"]) for name in ("input_ids", "position_ids")]
        self._outputs: list[onnx.ValueInfoProto] = []
        self._total_length = total_length
        self._states = self._layers = 0

    def build(self, every_position: bool) -> onnx.ModelProto:
        self._lengths()
        hidden = self._node("Gather", ["embedding", "input_ids"], "hidden")
        for layer, kind in enumerate(self._decoder.kinds):
            norm = self._node(
                "SimplifiedLayerNormalization", [hidden, "scale"], f"norm{layer}", axis=-1, epsilon=_EPSILON
            )
            mixed = {"conv": self._conv, "linear": self._linear, "attention": self._attention}[kind](norm, layer)
            hidden = self._node("Add", [hidden, mixed], f"hidden{layer}")
        if not every_position:
            hidden = self._node("Gather", [hidden, "last"], "hidden.last", axis=1)
        self._node("MatMul", [hidden, "head"], "logits")
        logits = _value("logits", np.float32, ["B", "L", VOCABULARY])
        initializers = [numpy_helper.from_array(array, name) for name, array in self._constants.items()]
        graph = helper.make_graph(self._nodes, "hybrid", self._inputs, [logits, *self._outputs], initializers)
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    def _node(self, op: str, inputs: list[str], output: str, *more: str, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(op, inputs, [output, *more], **attributes))
        return output

    def _cast(self, name: str, dtype: Any) -> str:
        return self._node(
            "Cast", [name], f"{name}.{np.dtype(dtype)}", to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        )

    def _lengths(self) -> None:
        end = self._node("Gather", ["position_ids", "last"], "end", axis=1)
        self._cast(self._node("Squeeze", [end, "axis"], "past_lengths"), np.int32)
        if self._total_length:
            self._inputs.append(_value("total", np.int32, [1]))
            return
        top = self._node("ReduceMax", ["position_ids"], "top", keepdims=0)
        self._node("Cast", [self._node("Add", [top, "one"], "total.64")], "total", to=TensorProto.INT32)

    def _state(self, kind: Kind, dtype: Any) -> tuple[str, str]:
        """Names of a float32 past, and of a float32 present that the caller writes."""
        past, present = (f"{when}_state.{self._states}" for when in ("past", "present"))
        self._states += 1
        self._inputs.append(_value(past, dtype, ["B", *_SHAPES[kind]]))
        self._outputs.append(_value(present, dtype, ["B", *_SHAPES[kind]]))
        if dtype == np.float32:
            return past, present
        self._late = (f"{present}.float32", present)
        return self._cast(past, np.float32), f"{present}.float32"

    def _conv(self, norm: str, layer: int) -> str:
        past, present = self._state("conv", self._dtype)
        channels = self._node("Transpose", [norm], f"channels{layer}", perm=[0, 2, 1])
        inputs = [channels, f"conv{layer}", "", past]
        result = self._node(
            "CausalConvWithState",
            inputs,
            f"convolved{layer}",
            present,
            domain="com.microsoft",
            activation="silu",
            ndim=1,
        )
        if self._half:
            self._node("Cast", [self._late[0]], self._late[1], to=TensorProto.FLOAT16)
        return self._node("Transpose", [result], f"mixed{layer}", perm=[0, 2, 1])

    def _project(self, norm: str, layer: int, dtype: Any) -> list[str]:
        names = [self._node("MatMul", [norm, f"{name}{layer}"], f"{name}{layer}.out") for name in "qkv"]
        return names if dtype == np.float32 else [self._cast(name, dtype) for name in names]

    def _linear(self, norm: str, layer: int) -> str:
        past, present = self._state("linear", np.float32)
        gate = self._node("MatMul", [norm, f"g{layer}"], f"g{layer}.out")
        decay = self._node("Neg", [self._node("Softplus", [gate], f"softplus{layer}")], f"decay{layer}")
        return self._node(
            "LinearAttention",
            [*self._project(norm, layer, np.float32), past, decay],
            f"mixed{layer}",
            present,
            domain="com.microsoft",
            update_rule="gated",
            q_num_heads=HEADS,
            kv_num_heads=HEADS,
        )

    def _attention(self, norm: str, layer: int) -> str:
        shape = ["B", KV_HEADS, "P", HEAD_DIM]
        past, present = ([f"{when}.{self._layers}.{what}" for what in ("key", "value")] for when in ("past", "present"))
        self._layers += 1
        self._inputs += [_value(name, self._dtype, shape) for name in past]
        self._outputs += [_value(name, self._dtype, shape) for name in present]
        angles = ["cos", "sin"] if not self._half else [self._cast_once(name) for name in ("cos", "sin")]
        mixed = self._node(
            "GroupQueryAttention",
            [*self._project(norm, layer, self._dtype), *past, "past_lengths.int32", "total", *angles],
            f"attended{layer}",
            *present,
            domain="com.microsoft",
            num_heads=HEADS,
            kv_num_heads=KV_HEADS,
            do_rotary=1,
        )
        return self._cast(mixed, np.float32) if self._half else mixed

    def _cast_once(self, name: str) -> str:
        self._constants[f"{name}.half"] = self._constants[name].astype(np.float16)
        return f"{name}.half"


def _value(name: str, dtype: Any, shape: Sequence[object]) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return helper.make_tensor_value_info(name, kind, list(shape))  # type: ignore[arg-type]


def write_engine(directory: Path, decoder: HybridDecoder, target: str = "ort-cpu", **changes: object) -> Path:
    """Write an engine directory of the decoder; `changes` replace fields of engine.json."""
    directory.mkdir(parents=True)
    cuda = target == "ort-cuda"
    onnx.save(decoder.graph(every_position=False, cuda=cuda), directory / "generate.onnx")
    onnx.save(decoder.graph(every_position=True, cuda=cuda), directory / "score.onnx")
    graphs = {"generate": "generate.onnx", "score": "score.onnx"}
    if cuda:
        ir.save(growth_graph(), directory / "grow.onnx")
        graphs["grow"] = "grow.onnx"
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.save(str(directory / TOKENIZER_FILE))
    (directory / CHAT_TEMPLATE_FILE).write_text(CHAT_TEMPLATE, encoding="utf-8")
    attention = list(decoder.kinds).count("attention")
    half: Literal["float16", "float32"] = "float16" if cuda else "float32"
    states = [
        StateSpec(shape=_SHAPES[kind], dtype=half if kind == "conv" else "float32")
        for kind in decoder.kinds
        if kind != "attention"
    ]
    fields: dict[str, Any] = {
        "name": "hybrid",
        "source": "tests",
        "target": target,
        "architecture": Architecture(
            model_type="hybrid",
            vocab_size=VOCABULARY,
            hidden_size=HIDDEN,
            layers=len(decoder.kinds),
            heads=HEADS if attention else 0,
            kv_heads=[KV_HEADS] * attention,
            head_dims=[HEAD_DIM] * attention,
            max_length=MAX_LENGTH,
            parameters=1,
        ),
        "graphs": graphs,
        "io": GraphIO(total_length="total" if cuda else None),
        "kv_cache": KVCacheSpec(layout="shared-buffer", dtype=half, states=states),
        "quantization": QuantizationRecipe(scheme="none"),
        "special_tokens": SpecialTokens(bos=tokenizer.bos_token_id, eos=[tokenizer.eos_token_id]),
        "sampling": SamplingDefaults(),
        "versions": {},
    }
    write_manifest(directory, **(fields | changes))
    return directory


def build_hybrid(directory: Path, model_type: str, quant: str = "none") -> tuple[Path, Any]:
    """Build an engine of a tiny random model, and return it with the model."""
    from edgekiln.calib.data.options import DataOptions
    from edgekiln.pipeline.build import build_engine
    from edgekiln.pipeline.options import BuildOptions
    from edgekiln.sources.resolve import resolve
    from families.tiny import tiny_config, tiny_model

    has_positions = hasattr(tiny_config(model_type), "max_position_embeddings")
    model = tiny_model(model_type, **({"max_position_embeddings": MAX_LENGTH} if has_positions else {}))
    save_model(directory / "checkpoint", model)
    data = DataOptions(samples=4, length=32)
    options = BuildOptions(quant=quant, max_length=MAX_LENGTH, data=data)
    build_engine(resolve(str(directory / "checkpoint")), directory / "engine", options)
    return directory / "engine", model
