"""The text of an answer. Stop strings end it at the token at which StopStringCriteria of transformers ends it."""

import functools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, models
from transformers import PreTrainedTokenizerFast, StopStringCriteria

from edgekiln.engine.manifest import SpecialTokens
from edgekiln.runtimes.generate.answer_text import AnswerText
from edgekiln.runtimes.text.tokenizer import Tokenizer

PIECES = ["a", "b", "c", "d", "e", "f", "ab", "cab", "é", "xé", " a", "\n", ".", "日", "▁"]
BYTES = [0x0A, 0x41, 0x82, 0x8D, 0x97, 0xA5, 0xC3, 0xA9, 0xE6, 0xFF]
SPECIAL = ["<s>", "</s>", "<|pad|>", "<tool>", "</tool>", "<é>", "<a b>"]
STOPS = [
    "</s>",
    "<tool>",
    "b</tool>",
    "</tool> a",
    "ab<tool>c",
    "cab",
    "é",
    "xé",
    "日",
    "\n",
    "A\n",
    "<é>",
    "<a b>",
    "a",
]


def llama() -> FastTokenizer:
    """Byte fallback, as in Llama 2."""
    texts = ["<unk>", *[f"<0x{byte:02X}>" for byte in BYTES], *(text.replace(" ", "▁") for text in PIECES)]
    fast = FastTokenizer(models.BPE({text: i for i, text in enumerate(dict.fromkeys(texts))}, [], unk_token="<unk>"))
    fast.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return fast


def byte_level() -> FastTokenizer:
    """Bytes as characters, as in GPT-2; some tokens have a part of a character."""
    characters = "".join(dict.fromkeys("abcdefxÃ©æĹ¥Ċ.Ġâĸģÿ"))
    texts = [*characters, "ab", "cab", "xÃ©", "xÃ", "Ġa", "bæ", "¥a", "æĹ¥", "©Ã"]
    fast = FastTokenizer(models.BPE({text: i for i, text in enumerate(texts)}, []))
    fast.decoder = decoders.ByteLevel()
    return fast


def word_piece() -> FastTokenizer:
    texts = ["[UNK]", "abcdef", "a", "##b", "##cab", ".", "é", "##é", "##\n", "日", "##日"]
    fast = FastTokenizer(models.WordPiece({text: i for i, text in enumerate(texts)}, unk_token="[UNK]"))
    fast.decoder = decoders.WordPiece()
    return fast


def metaspace() -> FastTokenizer:
    fast = FastTokenizer(models.BPE({text.replace(" ", "▁"): i for i, text in enumerate(PIECES)}, []))
    fast.decoder = decoders.Metaspace()
    return fast


FAMILIES = [llama, byte_level, word_piece, metaspace]


@functools.cache
def both(family) -> tuple[PreTrainedTokenizerFast, Tokenizer]:
    fast = family()
    fast.add_special_tokens(SPECIAL)
    ids = [fast.token_to_id(text) for text in SPECIAL[:3]]
    hf = PreTrainedTokenizerFast(tokenizer_object=fast, bos_token="<s>", eos_token="</s>", pad_token="<|pad|>")
    return hf, Tokenizer(fast, SpecialTokens(bos=ids[0], eos=[ids[1]], pad=ids[2]))


@functools.cache
def criterion(family, stop: tuple[str, ...]) -> StopStringCriteria | None:
    try:
        return StopStringCriteria(both(family)[0], list(stop))
    except ValueError:  # no token has a part of a stop string
        return None


def answer(tokenizer: Tokenizer, stop: tuple[str, ...], special_tokens: str, ids: list[int]) -> tuple[int, str, bool]:
    """The number of tokens up to a stop string, the text, and whether there was one."""
    text = AnswerText(tokenizer, stop, special_tokens, frozenset())
    shown = []
    for count, token in enumerate(ids, start=1):
        piece, stopped = text.push(token)
        shown.append(piece)
        if stopped:
            return count, "".join(shown), True
    rest, stopped = text.flush()
    return len(ids), "".join(shown) + rest, stopped


@pytest.mark.parametrize("family", FAMILIES)
@given(stop=st.lists(st.sampled_from(STOPS), min_size=1, max_size=2), data=st.data())
def test_answers_end_at_the_token_at_which_transformers_ends_them(family, stop, data):
    hf, ours = both(family)
    ids = data.draw(st.lists(st.integers(0, len(hf) - 1), max_size=12))
    ends = criterion(family, tuple(stop))
    counts = range(1, len(ids) + 1) if ends else []
    first = next((count for count in counts if ends(torch.tensor([ids[:count]]), None)[0]), None)
    count, text, stopped = answer(ours, tuple(stop), "show", ids)
    assert (count, stopped) == (first or len(ids), first is not None)
    fast = ours._tokenizer
    if not stopped:
        for choice in ("hide", "show"):
            assert answer(ours, tuple(stop), choice, ids)[1] == fast.decode(ids, skip_special_tokens=choice == "hide")
        return
    # The text is that of some tokens before the stop string, and of the part of a token before it.
    whole = b"".join(map(ours.token_bytes, ids[:count]))
    found = [(start + len(one.encode()), start) for one in stop if (start := whole.find(one.encode())) >= 0]
    before, size = whole[: min(found)[1]], 0
    kept = 0
    while kept < count and size + len(ours.token_bytes(ids[kept])) <= len(before):
        size += len(ours.token_bytes(ids[kept]))
        kept += 1
    assert text.startswith(fast.decode(ids[:kept], skip_special_tokens=False).rstrip("\ufffd"))
    hidden = answer(ours, tuple(stop), "hide", ids)[1]
    assert hidden.startswith(fast.decode(ids[:kept]).rstrip("\ufffd"))
    rest = before[size:].decode(errors="replace")
    if "\ufffd" not in fast.decode(ids[:kept], skip_special_tokens=False) and (kept or family is not word_piece):
        assert text.strip() == (fast.decode(ids[:kept], skip_special_tokens=False) + rest).strip()
        if family is word_piece and all(map(ours.is_special, ids[:kept])):
            return  # the part is then of the first word that is shown, which keeps its ##
        assert hidden.strip() == (fast.decode(ids[:kept]) + rest * (not ours.is_special(ids[kept]))).strip()


def ids_of(family, *texts: str) -> list[int]:
    return [both(family)[1]._tokenizer.token_to_id(text) for text in texts]


@pytest.mark.parametrize(
    ("family", "tokens", "stop", "expected"),
    [
        # A stop string in byte tokens ends the answer at once, though their run has not ended.
        (llama, ["a", "<0x41>", "<0x0A>"], ("\n",), (3, "aA", True)),
        (llama, ["a", "<0xE6>", "<0x97>", "<0xA5>"], ("日",), (4, "a", True)),
        (llama, ["a", "<0xE6>", "<0x97>", "<0x0A>"], ("\n",), (4, "a\ufffd\ufffd", True)),
        (llama, ["▁a", "b"], ("ab",), (2, "", True)),
        (llama, ["▁a", "▁a", "b"], ("ab",), (3, "a ", True)),
        (llama, ["a", "<tool>", "ab", "c"], ("bc",), (4, "a<tool>a", True)),
        (llama, ["a", "<tool>", "b"], ("ab",), (3, "a<tool>b", False)),
        (llama, ["a", "<tool>", "b"], ("ool>b", "x"), (3, "a<t", True)),
        (llama, ["a", "</s>", "b", "<s>", "<|pad|>"], ("x",), (5, "ab", False)),
        (llama, ["a", "</s>", "b"], ("</s>b",), (3, "a", True)),
        (llama, ["a", "</s>", "b"], ("s>b",), (3, "a", True)),  # starts in a token that is not shown
        # Characters that are split by tokens.
        (byte_level, ["xÃ", "©"], ("é",), (2, "x", True)),
        (byte_level, ["bæ", "Ĺ", "¥a", "b"], ("ab",), (4, "b日", True)),
        (byte_level, ["bæ", "Ĺ", "a", "b"], ("ab",), (4, "b\ufffd", True)),
        # U+FFFD, which stands for bytes that are no text, is looked for in the text that is shown.
        (byte_level, ["a", "æ", "Ĺ", "b", "c"], ("\ufffdb",), (4, "a", True)),
        (byte_level, ["a", "æ", "Ĺ", "¥", "b"], ("\ufffd",), (5, "a日b", False)),
        (byte_level, ["a", "æ", "Ĺ"], ("\ufffd",), (3, "a", True)),
        (byte_level, ["a", "æ", "b", "c", "a"], ("\ufffdx", "ca"), (5, "a\ufffdb", True)),
        (llama, ["a", "<0x41>", "<0xFF>", "c"], ("\ufffd\ufffd",), (3, "a", True)),
        (word_piece, ["a", "##cab", "."], ("b.",), (3, "aca", True)),
        (word_piece, ["a", "a", "##b"], (" ab",), (3, "a", True)),
    ],
)
def test_the_text_before_a_stop_string(family, tokens, stop, expected):
    assert answer(both(family)[1], stop, "auto", ids_of(family, *tokens)) == expected


@pytest.mark.parametrize(
    ("special_tokens", "expected"),
    [("show", "<s>a<tool>b</s>"), ("auto", "a<tool>b"), ("hide", "ab")],
)
def test_special_tokens_are_shown_as_wanted(special_tokens, expected):
    ids = ids_of(llama, "<s>", "a", "<tool>", "b", "</s>")
    for stop in ((), ("never",)):
        assert answer(both(llama)[1], stop, special_tokens, ids)[1] == expected


def test_text_that_may_become_a_stop_string_is_held_back():
    text = AnswerText(both(llama)[1], ("<tool>c",), "auto", frozenset())
    pushed = [text.push(token)[0] for token in ids_of(llama, "a", "<tool>", "b", "<tool>")]
    assert [*pushed, *text.flush()] == ["a", "", "<tool>b", "", "<tool>", False]
