"""Tokenizers with every decoder of `tokenizers`, over one vocabulary that has something for each of them."""

import functools

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


@functools.cache
def tokenizer(name: str) -> Tokenizer:
    """The tokenizer with decoder `name` of `DECODERS`."""
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


def of_texts(*texts: str) -> list[int]:
    """Ids of tokens."""
    return [tokenizer("none")._tokenizer.token_to_id(text) for text in texts]


def any_ids(name: str) -> st.SearchStrategy[list[int]]:
    """Lists of ids, some outside the vocabulary. `tokenizers` panics where stripped ends overlap: these are avoided."""
    ids = st.lists(st.integers(0, tokenizer(name)._tokenizer.get_vocab_size() + 2), max_size=30)
    return ids.map(lambda ids: [*ids, *of_texts("b"), *reversed(ids)]) if name == "strip the ends" else ids
