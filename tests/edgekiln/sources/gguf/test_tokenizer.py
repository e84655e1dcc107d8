"""Tokenizers of GGUF files: ids and ends of an answer as llama.cpp's llama-vocab.cpp gives them."""

import string
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from edgekiln.errors import EdgekilnError, SourceError, UnsupportedModelError
from edgekiln.sources.gguf.pre_tokenizers import PRE_TOKENIZERS
from edgekiln.sources.gguf.reader import GgufFile
from edgekiln.sources.gguf.tokenizer import convert_tokenizer
from edgekiln.sources.tokenizer import TokenizerSource
from support.gguf_files import BEGIN, BYTE_TOKENS, END, MERGES, TOKENS, TURN, random, write

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def converted(path: Path, **settings: Any) -> TokenizerSource:
    """The tokenizer of a file with a vocabulary and one tensor."""
    file = GgufFile(write(path / "m.gguf", "llama", {"token_embd.weight": random(4, 32)}, **settings))
    return convert_tokenizer(file)[0]


def tokenizer(path: Path, **settings: Any) -> Tokenizer:
    return Tokenizer.from_str(converted(path, **settings).json)


def sentencepiece(texts: dict[str, float], **settings: Any) -> dict[str, Any]:
    """Settings of a SentencePiece vocabulary: unknown, bos, eos, the bytes, and texts with their scores."""
    tokens = ["<unk>", "<s>", "</s>", *BYTES, *texts]
    defaults = {
        "tokenizer_model": "llama",
        "tokenizer_tokens": tokens,
        "tokenizer_token_type": [2, 3, 3, *[6] * 256, *[1] * len(texts)],
        "tokenizer_scores": [0.0] * 259 + list(texts.values()),
        **dict.fromkeys(["tokenizer_merges", "tokenizer_bos_token_id", "tokenizer_eos_token_id"]),
        "tokenizer_eot_token_id": None,
    }
    return {**defaults, **settings}


def with_texts(*texts: str, kinds: int = 3) -> dict[str, Any]:
    """Settings of a byte-level vocabulary with further tokens, from id 256 on, the last being "he"."""
    tokens = [*BYTE_TOKENS, *texts, "he"]
    return {
        "tokenizer_tokens": tokens,
        "tokenizer_token_type": [*[1] * 256, *[kinds] * len(texts), 1],
        "tokenizer_merges": MERGES[:1],
        **dict.fromkeys(["tokenizer_bos_token_id", "tokenizer_eos_token_id", "tokenizer_eot_token_id"]),
    }


@pytest.mark.parametrize("rule", sorted(PRE_TOKENIZERS))
def test_rules_add_bos_and_take_whole_words_as_llama_cpp_does(tmp_path: Path, rule: str) -> None:
    llama3 = ("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano")
    found = tokenizer(
        tmp_path, tokenizer_pre=rule, tokenizer_tokens=[*TOKENS, "hey"], tokenizer_token_type=None
    ).encode("hey")
    adds, whole = rule in (*llama3, "tekken"), rule in (*llama3, "tekken", "minicpm5")
    assert found.tokens == ["<|begin|>"] * adds + (["hey"] if whole else ["he", "y"])


@pytest.mark.parametrize("rule", sorted(PRE_TOKENIZERS))
def test_rules_lose_no_text(rule: str) -> None:
    text = "DON'T  stop,12345 naïve Straße\n\n\t漢字かな 한국어 ¿qué? x2 $3.50 🙂 \r\n end "
    found = Tokenizer.from_str(Tokenizer.from_str(EMPTY).to_str())
    found.pre_tokenizer = PRE_TOKENIZERS[rule].build()
    spans = [span for _, span in found.pre_tokenizer.pre_tokenize_str(text)]
    assert "".join(text[start:end] for start, end in spans) == text


EMPTY = '{"version":"1.0","added_tokens":[],"model":{"type":"BPE","vocab":{},"merges":[]}}'


@pytest.mark.parametrize(
    ("rule", "text", "pieces"),
    [
        # Without a rule, llama.cpp splits punctuation off first and digits by three.
        (None, "It's 12345", ["It", "'", "s", "Ġ", "123", "45"]),
        ("gpt-2", "It's 12345", ["It", "'s", "Ġ12345"]),
        ("llama-bpe", "It'S 12345", ["It", "'S", "Ġ", "123", "45"]),
        ("qwen2", "It's 12", ["It", "'s", "Ġ", "1", "2"]),
        ("grok-2", "It's 12", ["It", "'s", "Ġ", "1", "2"]),
        ("tekken", "HelloWorld 12/", ["Hello", "World", "Ġ", "1", "2", "/"]),
        ("gpt-4o", "HelloWorld'll 1234", ["Hello", "World'll", "Ġ", "123", "4"]),
        ("smollm", "ab 12", ["ab", "Ġ", "1", "2"]),
        ("deepseek-coder", "a+b 12", ["a", "+", "b", "Ġ", "1", "2"]),
        ("deepseek-v3", "x=1234", ["x", "=", "123", "4"]),
        ("falcon", "a$b1234", ["a", "$", "b", "123", "4"]),
    ],
)
def test_rules_split_text(rule: str | None, text: str, pieces: list[str]) -> None:
    split = PRE_TOKENIZERS[rule or "default"].build().pre_tokenize_str(text)
    assert [piece for piece, _ in split] == pieces


def test_keys_go_before_the_defaults_of_a_rule(tmp_path: Path) -> None:
    found = tokenizer(
        tmp_path, tokenizer_pre="llama-bpe", tokenizer_add_bos_token=False, tokenizer_add_eos_token=True
    ).encode("he")
    assert found.tokens == ["he", "<|end|>"]


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"tokenizer_pre": "new-rule"}, UnsupportedModelError, "tokenizer.ggml.pre = 'new-rule'"),
        ({"tokenizer_model": "rwkv"}, UnsupportedModelError, r"tokenizer.ggml.model = 'rwkv' \(RWKV's\)"),
        ({"tokenizer_model": "bert"}, UnsupportedModelError, "WordPiece"),
        ({"tokenizer_model": "t5"}, UnsupportedModelError, "unigram"),
        ({"tokenizer_model": "none"}, UnsupportedModelError, "no tokenizer"),
        ({"tokenizer_model": "other"}, UnsupportedModelError, "tokenizer.ggml.model = 'other', which"),
        ({"tokenizer_suppress_tokens": [3]}, UnsupportedModelError, r"suppress_tokens = \[3\]"),
        ({"tokenizer_merges": None}, SourceError, "lacks tokenizer.ggml.merges"),
        ({"tokenizer_merges": ["he zz"]}, SourceError, "makes no tokenizer"),
        ({"tokenizer_token_type": [1, 1]}, SourceError, "token_type has 2 values, its vocabulary 264"),
        ({"tokenizer_tokens": [*TOKENS[:-1], "!"]}, SourceError, "tokens 0 and 263 are both '!'"),
        ({"tokenizer_tokens": 7}, SourceError, "tokens is 7, it must be an array of texts"),
        ({"tokenizer_bos_token_id": 264}, SourceError, "bos_token_id is 264, its vocabulary has 264 tokens"),
        ({"tokenizer_bos_token_id": True}, SourceError, "bos_token_id is True"),
        ({"tokenizer_eos_token_ids": [1, 999]}, SourceError, "eos_token_ids is 999"),
        ({"tokenizer_add_bos_token": 1}, SourceError, "add_bos_token is 1, no truth value"),
        (
            {"tokenizer_bos_token_id": None, "tokenizer_pre": "tekken"},
            SourceError,
            "gives no tokenizer.ggml.bos_token_id, but its tokenizer adds this token",
        ),
        (sentencepiece({"▁": -1.0}, tokenizer_scores=None), SourceError, "lacks tokenizer.ggml.scores"),
        (sentencepiece({"▁": float("nan")}), SourceError, "scores has values that are no numbers"),
    ],
)
def test_what_cannot_be_right_is_refused(
    tmp_path: Path, settings: dict[str, Any], kind: type[EdgekilnError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        converted(tmp_path, **settings)


@pytest.mark.parametrize(
    "text", ["<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|eom_id|>", "<EOT>", "<|end_of_text|>", "</s>"]
)
def test_ends_of_an_answer_are_known_by_text(tmp_path: Path, text: str) -> None:
    settings = with_texts("<|endoftext|>", text, "<|other|>") | {"tokenizer_eos_token_id": 256}
    assert converted(tmp_path, **settings).special_tokens.eos == [256, 257]


def test_an_end_that_is_no_control_token_becomes_one(tmp_path: Path) -> None:
    source = converted(tmp_path, **with_texts("<|im_end|>", "</s>", kinds=1))
    found = Tokenizer.from_str(source.json)
    # The text "</s>" is an HTML tag as well.
    assert source.special_tokens.eos == [256]
    assert found.encode("he<|im_end|></s>").ids[:2] == [258, 256]
    assert found.decode([258, 256]) == "he"


def test_messages_of_one_answer_do_not_end_it(tmp_path: Path) -> None:
    settings = with_texts("<|end|>", "<|return|>", "<|call|>")
    assert converted(tmp_path, **settings).special_tokens.eos == [257, 258]


def test_all_keys_of_ends_are_read(tmp_path: Path) -> None:
    settings = with_texts("<a>", "<b>", "<c>", "<d>", "<e>") | {
        "tokenizer_eos_token_id": 258,
        "tokenizer_eot_token_id": 257,
        "tokenizer_eom_token_id": 256,
        "tokenizer_fim_sep_token_id": 259,
        "tokenizer_eos_token_ids": [258, 260],
    }
    assert converted(tmp_path, **settings).special_tokens.eos == [258, 257, 256, 259, 260]


def test_no_key_of_a_special_token_is_needed(tmp_path: Path) -> None:
    tokens = converted(tmp_path, **with_texts("<x>")).special_tokens
    assert tokens.model_dump() == {
        "bos": None,
        "eos": [],
        "pad": None,
        "add_bos": False,
        "template_variables": {},
    }
    # llama.cpp's defaults for SentencePiece vocabularies.
    tokens = converted(tmp_path, **sentencepiece({"▁": -1.0})).special_tokens
    assert tokens.model_dump() == {
        "bos": 1,
        "eos": [2],
        "pad": None,
        "add_bos": True,
        "template_variables": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    }


def test_template_variables_are_the_texts_of_the_special_tokens(tmp_path: Path) -> None:
    names = {"unknown": 256, "seperator": 257, "padding": 258, "cls": 259, "mask": 260}
    settings = {f"tokenizer_{name}_token_id": token for name, token in names.items()}
    assert converted(tmp_path, **settings).special_tokens.template_variables == {
        "bos_token": TOKENS[BEGIN],
        "eos_token": TOKENS[END],
        **dict(zip(("unk_token", "sep_token", "pad_token", "cls_token", "mask_token"), TOKENS[256:261], strict=True)),
    }


def test_named_chat_templates(tmp_path: Path) -> None:
    # The writer sets keys "tokenizer.ggml.*" and "llama.*" only.
    file = GgufFile(write(tmp_path / "m.gguf", "llama", {"token_embd.weight": random(4, 32)}))
    metadata = dict(file.metadata)
    text = metadata["tokenizer.ggml.model"]
    for keys, expected in (
        ({"tokenizer.chat_template": "A"}, "A"),
        ({"tokenizer.chat_template": "A", "tokenizer.chat_template.rag": "B"}, {"default": "A", "rag": "B"}),
        ({"tokenizer.chat_template.tool_use": "B"}, {"tool_use": "B"}),
        ({}, None),
    ):
        added = {key: type(text)(text.type, value) for key, value in keys.items()}
        file.metadata = {**metadata, **added}
        assert convert_tokenizer(file)[0].chat_template == expected
    file.metadata = {**metadata, "tokenizer.chat_template": type(text)(4, 7)}
    with pytest.raises(SourceError, match="chat template 'default' is 7, no text"):
        convert_tokenizer(file)


def test_space_prefix(tmp_path: Path) -> None:
    texts = {"▁": -9.0, "h": -8.0, "i": -7.0, "hi": -2.0, "▁hi": -1.0}
    assert tokenizer(tmp_path, **sentencepiece(texts)).encode("hi</s>hi").tokens == ["<s>", "▁hi", "</s>", "▁hi"]
    settings = sentencepiece(texts, tokenizer_add_space_prefix=False, tokenizer_add_bos_token=False)
    found = tokenizer(tmp_path, **settings)
    assert found.encode("hi hi").tokens == ["hi", "▁hi"]
    assert found.decode(found.encode(" hi").ids) == " hi"


def test_text_never_merges_into_a_control_token(tmp_path: Path) -> None:
    texts = {"<": -5.0, "/s": -1.0, ">": -5.0, "/": -5.0, "s": -5.0, "</": -1.0, "s>": -1.0, "▁": -9.0}
    ids = tokenizer(tmp_path, **sentencepiece(texts)).encode("</s >").ids
    assert 2 not in ids


def merged(text: str, scores: dict[str, float]) -> list[str]:
    """llama.cpp's SPM: of the adjacent pairs whose text is a token, the best, leftmost one is merged first."""
    symbols = list(text)
    while True:
        pairs = [(scores[a + b], -i) for i, (a, b) in enumerate(pairwise(symbols)) if a + b in scores]
        if not pairs:
            return symbols
        at = -max(pairs)[1]
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]


@given(
    st.lists(st.text("abc", min_size=2, max_size=4), unique=True, max_size=12),
    st.text("abc ", min_size=1, max_size=12),
    st.randoms(use_true_random=False),
)
def test_sentencepiece_ids_equal_llama_cpp_algorithm(
    tmp_path_factory: pytest.TempPathFactory, words: list[str], text: str, order: Any
) -> None:
    texts = ["▁", *"abc", *words, *(f"▁{word}" for word in words[:4])]
    scores = dict(zip(texts, order.sample([-float(n) for n in range(1, 40)], len(texts)), strict=True))
    found = tokenizer(tmp_path_factory.mktemp("spm"), **sentencepiece(scores)).encode(text).tokens
    assert found == ["<s>", *merged("▁" + text.replace(" ", "▁"), scores)]


def test_phi3_swallows_the_spaces_after_special_tokens(tmp_path: Path) -> None:
    file = GgufFile(write(tmp_path / "m.gguf", "llama", {"token_embd.weight": random(4, 32)}))
    name = file.metadata["tokenizer.ggml.model"]
    text = "<|turn|> \n he"
    plain = Tokenizer.from_str(convert_tokenizer(file)[0].json).encode(text).ids
    file.metadata["general.name"] = type(name)(name.type, "Phi-3 mini")
    stripped = Tokenizer.from_str(convert_tokenizer(file)[0].json).encode(text).ids
    assert stripped == [TURN, TOKENS.index("he")]
    assert plain[0] == TURN
    assert len(plain) > 2


def test_printable_text_survives(tmp_path: Path) -> None:
    for rule in ("default", "llama-bpe", "tekken", "gpt-4o"):
        found = tokenizer(tmp_path, tokenizer_pre=rule, tokenizer_add_bos_token=False)
        assert found.decode(found.encode(string.printable).ids) == string.printable
