"""Streamed texts together are the text of `tokenizers` for all ids: every decoder, any ids, special tokens or none."""

import gc
import sys
from collections import Counter

import pytest
from hypothesis import example, given

from edgekiln.runtimes.text.tokenizer import Tokenizer
from support.decoders import DECODERS, any_ids, of_texts, tokenizer


def streamed(tokenizer: Tokenizer, ids: list[int], *choice: str) -> str:
    stream = tokenizer.stream(*choice)
    return "".join([*map(stream.push, ids), stream.flush()])


@pytest.mark.parametrize("name", DECODERS)
def test_streamed_texts_are_the_text_of_tokenizers(name: str) -> None:
    ours = tokenizer(name)
    fast, special = ours._tokenizer, ours.special_tokens

    @given(ids=any_ids(name))
    @example(ids=of_texts("b", "<0x0A>", "<0xF0>", "<0x9F>"))
    @example(ids=of_texts("<0x0A>", "<0xE6>", "<0x97>", "<tool>", "<0xA5>", "<s>", "<0x41>"))
    @example(ids=of_texts("b", "▁a", "aa", "b", "ab▁", "▁", "▁"))
    def compare(ids: list[int]) -> None:
        assert streamed(ours, ids) == fast.decode(ids)
        assert streamed(ours, ids, "show") == fast.decode(ids, skip_special_tokens=False)
        shown = [token for token in ids if token not in (special.bos, *special.eos, special.pad)]
        assert streamed(ours, ids, "auto") == fast.decode(shown, skip_special_tokens=False)

    compare()


@pytest.mark.parametrize("name", ["llama", "byte level", "replace in the text", "bpe"])
@pytest.mark.parametrize("text", ["▁a", "h", "<0x41>", "<0xF0>", "ð", "a", "<tool>"])
def test_the_work_for_a_token_is_constant(name: str, text: str) -> None:
    """Counts calls instead of seconds."""
    ours, ids = tokenizer(name), of_texts(text)

    def calls(count: int) -> int:
        counter: Counter[str] = Counter()
        gc.disable()  # a collection would call the finalizers of other tests
        sys.setprofile(lambda _frame, event, _argument: counter.update([event]))
        try:
            streamed(ours, ids * count, "show")
        finally:
            sys.setprofile(None)
            gc.enable()
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
