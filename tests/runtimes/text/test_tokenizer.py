"""Tokenizer, and streaming decoding compared with decoding at once. Byte tokens split characters."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, models, normalizers, processors

from edgekiln.engine.manifest import SpecialTokens, read_manifest
from edgekiln.errors import EngineError
from edgekiln.runtimes.text.tokenizer import Tokenizer

END = 258  # <|im_end|>
UNKNOWN_ID = 300


def sentencepiece_tokenizer() -> Tokenizer:
    """A tokenizer like that of Llama 2: ▁ for spaces, the first of which decoding strips, and byte fallback."""
    vocab = {"<unk>": 0, "<s>": 1, **{f"<0x{byte:02X}>": 2 + byte for byte in range(256)}}
    for symbol in ["▁", "h", "i", "t", "e", "▁h", "▁t", "hi", "▁hi", "▁the"]:
        vocab[symbol] = len(vocab)
    merges = [("▁", "h"), ("▁", "t"), ("h", "i"), ("▁h", "i")]
    fast = FastTokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True))
    fast.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    fast.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    fast.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fast.add_special_tokens(["<s>"])
    return Tokenizer(fast, SpecialTokens(bos=1, add_bos=True))


@pytest.fixture(scope="module")
def tokenizer(engine):
    return Tokenizer.from_engine(engine, read_manifest(engine))


@pytest.fixture(scope="module", params=["bytes", "sentencepiece"])
def either(request, engine):
    if request.param == "bytes":
        return Tokenizer.from_engine(engine, read_manifest(engine))
    return sentencepiece_tokenizer()


def streamed(tokenizer: Tokenizer, ids) -> list[str]:
    stream = tokenizer.stream()
    return [*(stream.push(int(token)) for token in ids), stream.flush()]


def test_encode_adds_the_tokens_of_the_post_processor():
    tokenizer = sentencepiece_tokenizer()
    ids = tokenizer.encode("hi")
    assert ids.dtype == np.int64
    assert ids.tolist() == [1, *tokenizer.encode("hi", add_special_tokens=False).tolist()]
    assert tokenizer.decode(ids) == "hi"


@given(st.text())
@example("the  hi   hi ")
@example("naïve 中文 👩‍👩‍👧 \ufffd end")
@example(" 👍" * 20)
def test_streamed_texts_add_up_and_contain_whole_characters(either, text):
    ids = either.encode(text, add_special_tokens=False)
    texts = streamed(either, ids)
    assert "".join(texts) == either.decode(ids)
    if "\ufffd" not in text:
        assert "\ufffd" not in "".join(texts)
    # A run of byte tokens is decoded at its end.
    assert texts[-1] == "" or text.endswith("\ufffd") or either.token(int(ids[-1])).startswith("<0x")


@given(st.lists(st.integers(0, UNKNOWN_ID), max_size=60))
@example([END, 104, END, UNKNOWN_ID, 101])
def test_streamed_texts_of_any_ids_add_up_to_decode(tokenizer, ids):
    assert "".join(streamed(tokenizer, ids)) == tokenizer.decode(ids)


@pytest.mark.parametrize("bytes_", [1, 2, 3])
@pytest.mark.parametrize("lead", ["", "a", "中", "中a"])
def test_runs_of_invalid_bytes_are_returned_once(tokenizer, bytes_, lead):
    ids = [*tokenizer.encode(lead), *tokenizer.encode("👍")[:bytes_].tolist() * 40, *tokenizer.encode("中")]
    texts = streamed(tokenizer, ids)
    assert "".join(texts) == tokenizer.decode(ids) == lead + "\ufffd" * 40 + "中"
    assert texts[-2] == "中" or texts[-2].endswith("\ufffd中")


def test_a_character_is_returned_with_its_last_byte(tokenizer):
    ids = tokenizer.encode("h中e")
    assert streamed(tokenizer, ids) == ["h", "", "", "中", "e", ""]


def test_words_keep_their_spaces():
    tokenizer = sentencepiece_tokenizer()
    assert streamed(tokenizer, tokenizer.encode("hi hi the")) == ["", "hi", " hi", " t", "h", "e", ""]


def test_flush_returns_an_unfinished_character(tokenizer):
    assert streamed(tokenizer, tokenizer.encode("h中")[:-1]) == ["h", "", "", "\ufffd"]


def test_truncation_and_padding_are_disabled(tokenizer):
    fast = FastTokenizer.from_str(tokenizer._tokenizer.to_str())
    fast.enable_truncation(4)
    fast.enable_padding(length=16)
    assert Tokenizer(fast, SpecialTokens()).encode("h" * 9).size == 9


def test_a_damaged_tokenizer(make_engine):
    directory = make_engine()
    manifest = read_manifest(directory)
    for content, reason in (("{", "is damaged: it is not JSON, "), ("{}", r"cannot be read .*: ")):
        (directory / "tokenizer.json").write_text(content)
        with pytest.raises(EngineError, match=rf"tokenizer\.json {reason}build the engine again"):
            Tokenizer.from_engine(directory, manifest)
