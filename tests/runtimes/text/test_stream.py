"""Streamed texts together are the text of `tokenizers` for all ids: every decoder, any ids, special tokens shown or not."""

import functools
import sys
from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, decoders, models, normalizers
from tokenizers import Tokenizer as FastTokenizer

from edgekiln.engine.manifest import SpecialTokens
from edgekiln.runtimes.text.tokenizer import Tokenizer

WORDS = [
    "▁",
    "▁▁",
    "▁a",
    "b",
    "ab▁",
    " ",
    "  x ",
    "##ing",
    "##",
    "ing</w>",
    "</w>",
    "|",
    "<pad>",
    ".",
    " n't",
    "'s",
    "Ġa",
]
WORDS += ["Ã", "©", "é", "中", "\ufffd", "a", "aa", "<0x4g>", "<0x+A>", "<0x0a>", ""]
BYTES = {
    f"<0x{byte:02X}>": byte for byte in (0x0A, 0x41, 0x82, 0x8D, 0x91, 0x9F, 0xC3, 0xE6, 0x97, 0xA5, 0xED, 0xF0, 0xFF)
}
BYTE_LEVEL = ["ð", "Ł", "ĳ", "Į", "æĹ", "¥", "í", "ł", "Ģ", "h", "hi", "Ċ"]
LLAMA = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
DECODERS = {
    "none": None,
    "llama": decoders.Sequence(LLAMA),
    "gemma": decoders.Sequence(LLAMA[:3]),
    "byte level": decoders.ByteLevel(),
    "byte level in a sequence": decoders.Sequence([decoders.ByteLevel(), decoders.Replace("a", "b")]),
    "bytes, not fused": decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()]),
    "metaspace": decoders.Metaspace(),
    "metaspace, never prepended": decoders.Metaspace(prepend_scheme="never"),
    "word piece": decoders.WordPiece(),
    "word piece, no cleanup": decoders.WordPiece(cleanup=False),
    "bpe": decoders.BPEDecoder(),
    "ctc": decoders.CTC(),
    "ctc, no cleanup": decoders.CTC(cleanup=False),
    "ctc and metaspace": decoders.Sequence([decoders.CTC(), decoders.Metaspace()]),
    "strip": decoders.Strip("a", 1, 0),
    "strip the ends": decoders.Sequence([decoders.Fuse(), decoders.Strip("a", 2, 0), decoders.Strip("▁", 0, 1)]),
    "replace": decoders.Replace("▁a", "<>"),
    "replace a pattern": decoders.Replace(Regex("a+"), "b"),
    "replace in the text": decoders.Sequence(
        [decoders.Fuse(), decoders.Replace("aab", "x"), decoders.Replace("x", "aa")]
    ),
    "replace a pattern in the text": decoders.Sequence([decoders.Fuse(), decoders.Replace(Regex("a+b?"), "x")]),
    "fused twice": decoders.Sequence([decoders.Fuse(), decoders.Sequence([decoders.Fuse(), decoders.Metaspace()])]),
    "fused too early": decoders.Sequence([decoders.Fuse(), decoders.ByteFallback(), decoders.WordPiece()]),
}
BOS, EOS, PAD, TOOL = range(4)


@functools.cache
def tokenizer(name: str) -> Tokenizer:
    texts = ["<s>", "</s>", "<unk>", *dict.fromkeys([*WORDS, *BYTES, *BYTE_LEVEL])]
    fast = FastTokenizer(models.BPE({text: i for i, text in enumerate(texts)}, [], unk_token="<unk>"))
    fast.normalizer = normalizers.Lowercase()
    fast.add_special_tokens(["<s>", "</s>", "<|pad|>", "<tool>", "<▁é>", "name"])
    # The text of an added token is normalized; NAME becomes the special token "name", which decoding leaves out.
    fast.add_tokens([AddedToken("NAME", normalized=True), AddedToken("<Think>", normalized=True), AddedToken("▁b ")])
    if DECODERS[name] is not None:
        fast.decoder = DECODERS[name]
    ids = [fast.token_to_id(text) for text in ("<s>", "</s>", "<|pad|>")]
    return Tokenizer(fast, SpecialTokens(bos=ids[0], eos=[ids[1]], pad=ids[2]))


SIZE = tokenizer("none")._tokenizer.get_vocab_size()
IDS = st.lists(st.integers(0, SIZE + 2), max_size=30)


def streamed(tokenizer: Tokenizer, ids: list[int], *choice: str) -> str:
    stream = tokenizer.stream(*choice)
    return "".join([*map(stream.push, ids), stream.flush()])


def of_texts(*texts: str) -> list[int]:
    fast = tokenizer("none")._tokenizer
    return [fast.token_to_id(text) for text in texts]


@pytest.mark.parametrize("name", DECODERS)
@given(ids=IDS)
@example(ids=[])
@example(ids=of_texts("▁", "<0x0A>", "<0xF0>", "<0x9F>"))
@example(ids=of_texts("<0x0A>", "<0xE6>", "<0x97>", "<tool>", "<0xA5>", "<s>", "<0x41>"))
@example(ids=of_texts("▁a", "aa", "b", "ab▁", "▁", "▁"))
def test_streamed_texts_are_the_text_of_tokenizers(name: str, ids: list[int]) -> None:
    ours = tokenizer(name)
    fast, special = ours._tokenizer, ours.special_tokens
    if name == "strip the ends":  # `tokenizers` panics where the ends overlap
        ids = [*ids, *of_texts("b"), *reversed(ids)]
    assert streamed(ours, ids) == fast.decode(ids)
    assert streamed(ours, ids, "show") == fast.decode(ids, skip_special_tokens=False)
    shown = [token for token in ids if token not in (special.bos, *special.eos, special.pad)]
    assert streamed(ours, ids, "auto") == fast.decode(shown, skip_special_tokens=False)


@pytest.mark.parametrize("name", ["llama", "byte level", "replace in the text", "bpe"])
@pytest.mark.parametrize("text", ["▁a", "h", "<0x41>", "<0xF0>", "ð", "a", "<tool>"])
def test_the_work_for_a_token_is_constant(name: str, text: str) -> None:
    """Counts calls instead of seconds."""
    ours, ids = tokenizer(name), of_texts(text)

    def calls(count: int) -> int:
        counter: Counter[str] = Counter()
        sys.setprofile(lambda _frame, event, _argument: counter.update([event]))
        try:
            streamed(ours, ids * count, "show")
        finally:
            sys.setprofile(None)
        return counter["call"] + counter["c_call"]

    assert 0 < calls(200) - calls(100) == calls(300) - calls(200) < 100 * 40


def test_runs_of_byte_tokens_are_held_back_until_they_end() -> None:
    stream = tokenizer("llama").stream()
    texts = ["b", "<0xC3>", "<0xA5>", "<0x0A>", "b", "<0x41>", "<0xFF>", "<0x41>", "a", "<0xF0>"]
    expected = ["b", "", "", "", "å\nb", "", "\ufffd\ufffd", "\ufffd", "a", ""]
    assert [*map(stream.push, of_texts(*texts)), stream.flush()] == [*expected, "\ufffd"]


def test_a_character_is_split_by_a_special_token_only_where_it_is_shown() -> None:
    ours, ids = tokenizer("byte level"), of_texts("æĹ", "<tool>", "¥")
    assert [streamed(ours, ids, choice) for choice in ("hide", "auto", "show")] == [
        "日",
        "\ufffd<tool>\ufffd",
        "\ufffd<tool>\ufffd",
    ]
