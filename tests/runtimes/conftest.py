"""A tiny attention-only decoder as an ort-cpu engine, and the same decoder in numpy to compare it with."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from edgekiln.engine.directory import CHAT_TEMPLATE_FILE, TOKENIZER_FILE
from edgekiln.engine.manifest import (
    Architecture,
    KVCacheSpec,
    QuantizationRecipe,
    SamplingDefaults,
    SpecialTokens,
    write_manifest,
)

LAYERS, HEADS, KV_HEADS, HEAD_DIM, MAX_LENGTH = 2, 4, 2, 16, 600
HIDDEN = HEADS * HEAD_DIM
BOS, EOS = "<|im_start|>", "<|im_end|>"
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def byte_tokenizer() -> Tokenizer:
    """Byte-level BPE of single bytes, one merge and two special tokens; it splits non-ASCII characters."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {symbol: index for index, symbol in enumerate(alphabet)} | {"he": 256}

    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[("h", "e")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([BOS, EOS])
    return tokenizer


@dataclass
class TinyDecoder:
    """Embedding, `LAYERS` residual attention layers with rotary positions, and an LM head.

    The head is not tied: with tied weights a random decoder only repeats its input.
    """

    embedding: np.ndarray
    head: np.ndarray
    qkv: list[list[np.ndarray]]
    cos: np.ndarray
    sin: np.ndarray

    @classmethod
    def random(cls, vocab_size: int, seed: int = 0) -> "TinyDecoder":
        generator = np.random.default_rng(seed)
        widths = (HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM)
        angle = np.arange(MAX_LENGTH)[:, None] * 100.0 ** (-np.arange(HEAD_DIM // 2) * 2 / HEAD_DIM)
        return cls(
            embedding=generator.normal(0, 1, (vocab_size, HIDDEN)).astype(np.float32),
            head=generator.normal(0, 1, (HIDDEN, vocab_size)).astype(np.float32),
            qkv=[[generator.normal(0, 0.2, (HIDDEN, w)).astype(np.float32) for w in widths] for _ in range(LAYERS)],
            cos=np.cos(angle).astype(np.float32),
            sin=np.sin(angle).astype(np.float32),
        )

    def forward(self, ids: np.ndarray) -> np.ndarray:
        """Logits float64[S, V] of int64[S] `ids`, in one pass without a KV cache."""
        length = len(ids)
        x = self.embedding[ids].astype(np.float64)
        causal = np.triu(np.full((length, length), -np.inf), 1)
        for weights in self.qkv:
            query, key, value = ((x @ w).reshape(length, -1, HEAD_DIM).transpose(1, 0, 2) for w in weights)
            query, key = self._rotate(query), self._rotate(key)
            key, value = (np.repeat(part, HEADS // KV_HEADS, axis=0) for part in (key, value))
            scores = query @ key.transpose(0, 2, 1) / np.sqrt(HEAD_DIM) + causal
            weight = np.exp(scores - scores.max(-1, keepdims=True))
            weight /= weight.sum(-1, keepdims=True)
            x = x + (weight @ value).transpose(1, 0, 2).reshape(length, HIDDEN)
        return x @ self.head

    def _rotate(self, x: np.ndarray) -> np.ndarray:
        half = HEAD_DIM // 2
        cos, sin = self.cos[: x.shape[1]], self.sin[: x.shape[1]]
        first, second = x[..., :half], x[..., half:]
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)

    def graph(self, every_position: bool) -> onnx.ModelProto:
        """The ONNX graph, with GroupQueryAttention over a shared buffer as the lowering for ort-cpu makes it."""
        vocab_size = len(self.embedding)
        constants = {
            "embedding": self.embedding,
            "head": self.head,
            "cos": self.cos,
            "sin": self.sin,
            "last": np.array([-1]),
            "one": np.array(1),
        }
        nodes = [
            helper.make_node("Gather", ["embedding", "input_ids"], ["x0"]),
            helper.make_node("Gather", ["position_ids", "last"], ["end"], axis=1),
            helper.make_node("Squeeze", ["end", "one.axis"], ["end.1d"]),
            helper.make_node("Cast", ["end.1d"], ["seqlens"], to=TensorProto.INT32),
            helper.make_node("ReduceMax", ["position_ids"], ["top"], keepdims=0),
            helper.make_node("Add", ["top", "one"], ["total.64"]),
            helper.make_node("Cast", ["total.64"], ["total"], to=TensorProto.INT32),
        ]
        constants["one.axis"] = np.array([1])
        inputs = [_value("input_ids", TensorProto.INT64, "BS"), _value("position_ids", TensorProto.INT64, "BS")]
        outputs = [_value("logits", TensorProto.FLOAT, ["B", "L", vocab_size])]
        for layer, weights in enumerate(self.qkv):
            shape = ["B", KV_HEADS, "P", HEAD_DIM]
            for kind, weight in zip("qkv", weights, strict=True):
                constants[f"w{kind}{layer}"] = weight
                nodes.append(helper.make_node("MatMul", [f"x{layer}", f"w{kind}{layer}"], [f"{kind}{layer}"]))
            past, present = ([f"{when}.{layer}.{what}" for what in ("key", "value")] for when in ("past", "present"))
            nodes.append(
                helper.make_node(
                    "GroupQueryAttention",
                    [f"q{layer}", f"k{layer}", f"v{layer}", *past, "seqlens", "total", "cos", "sin"],
                    [f"a{layer}", *present],
                    domain="com.microsoft",
                    num_heads=HEADS,
                    kv_num_heads=KV_HEADS,
                    do_rotary=1,
                )
            )
            nodes.append(helper.make_node("Add", [f"x{layer}", f"a{layer}"], [f"x{layer + 1}"]))
            inputs += [_value(name, TensorProto.FLOAT, shape) for name in past]
            outputs += [_value(name, TensorProto.FLOAT, shape) for name in present]
        hidden = f"x{LAYERS}"
        if not every_position:
            nodes.append(helper.make_node("Gather", [hidden, "last"], ["x.last"], axis=1))
            hidden = "x.last"
        nodes.append(helper.make_node("MatMul", [hidden, "head"], ["logits"]))
        initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
        graph = helper.make_graph(nodes, "tiny", inputs, outputs, initializers)
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def _value(name: str, kind: int, shape: object) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(shape))  # type: ignore[call-overload]


def write_engine(directory: Path, decoder: TinyDecoder, tokenizer: Tokenizer, **changes: object) -> Path:
    """Write an engine directory of the tiny decoder; `changes` replace fields of engine.json."""
    directory.mkdir(parents=True)
    onnx.save(decoder.graph(every_position=False), directory / "generate.onnx")
    onnx.save(decoder.graph(every_position=True), directory / "score.onnx")
    tokenizer.save(str(directory / TOKENIZER_FILE))
    (directory / CHAT_TEMPLATE_FILE).write_text(CHATML, encoding="utf-8")
    fields: dict = {
        "name": "tiny",
        "source": "tests",
        "target": "ort-cpu",
        "architecture": Architecture(
            model_type="tiny",
            vocab_size=len(decoder.embedding),
            hidden_size=HIDDEN,
            layers=LAYERS,
            heads=HEADS,
            kv_heads=[KV_HEADS] * LAYERS,
            head_dims=[HEAD_DIM] * LAYERS,
            max_length=MAX_LENGTH,
            parameters=1,
        ),
        "graphs": {"generate": "generate.onnx", "score": "score.onnx"},
        "kv_cache": KVCacheSpec(layout="shared-buffer", dtype="float32"),
        "quantization": QuantizationRecipe(scheme="none"),
        "special_tokens": SpecialTokens(bos=tokenizer.token_to_id(BOS), eos=[tokenizer.token_to_id(EOS)]),
        "sampling": SamplingDefaults(),
        "versions": {},
    }
    write_manifest(directory, **(fields | changes))
    return directory


@pytest.fixture(scope="session")
def decoder() -> TinyDecoder:
    return TinyDecoder.random(byte_tokenizer().get_vocab_size())


@pytest.fixture(scope="session")
def engine(decoder: TinyDecoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_engine(tmp_path_factory.mktemp("engines") / "tiny", decoder, byte_tokenizer())


@pytest.fixture
def make_engine(decoder: TinyDecoder, tmp_path: Path):
    """A function that writes a tiny engine whose engine.json has some fields replaced."""

    def make(**changes: object) -> Path:
        return write_engine(tmp_path / "engine", decoder, byte_tokenizer(), **changes)

    return make
