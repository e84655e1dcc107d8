"""Texts that are too long are refused before they are tokenized; tokenizing others ends at Ctrl-C."""

import _thread
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as FastTokenizer

from edgekiln.engine.manifest import SpecialTokens
from edgekiln.errors import RequestError
from edgekiln.runtimes.text.interruptible import interruptible
from edgekiln.runtimes.text.text_length import most_characters
from edgekiln.runtimes.text.tokenizer import Tokenizer
from support.cpp_tokenizers import _FRAGMENTS, FAMILIES

TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"
TRAINING = ["hello world, this is a text of words and 12345 numbers " + "=" * 40]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(FAMILIES["gpt2"](TRAINING), SpecialTokens(), TEMPLATE)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_text_has_fewer_tokens_than_the_bound(family: str) -> None:
    fast = FAMILIES[family](TRAINING)
    most = most_characters(fast)
    if most is None:
        assert family in ("gemma", "odd", "llama2", "mistral")
        return

    @settings(deadline=None, max_examples=50)
    @given(st.lists(st.sampled_from([*_FRAGMENTS, "=" * 30, "hello world", " "]), max_size=20))
    def check(parts: list[str]) -> None:
        text = "".join(parts)
        assert len(text) <= most * len(fast.encode(text, add_special_tokens=False).ids)

    check()


def test_tokenizers_whose_tokens_can_stand_for_any_text_have_no_bound() -> None:
    vocabulary = {"a": 0, "[UNK]": 1}
    assert most_characters(FastTokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))) is None
    assert most_characters(FastTokenizer(models.BPE(vocabulary, []))) is None
    fused = FastTokenizer(models.BPE(vocabulary, [], unk_token="[UNK]", fuse_unk=True))
    assert most_characters(fused) is None
    each = FastTokenizer(models.BPE(vocabulary, [], unk_token="[UNK]"))
    assert most_characters(each) == 5
    each.normalizer = normalizers.NFC()
    assert most_characters(each) == 20
    each.normalizer = normalizers.Strip()
    assert most_characters(each) is None
    each.normalizer = normalizers.Replace("aa", "a")
    assert most_characters(each) is None
    each.normalizer = None
    each.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    assert most_characters(each) is None
    each.pre_tokenizer = pre_tokenizers.Split(" ", behavior="removed")
    assert most_characters(each) is None
    each.pre_tokenizer = pre_tokenizers.Split(" ", behavior="isolated")
    assert most_characters(each) == 5
    each.add_tokens([AddedToken("x", lstrip=True)])
    assert most_characters(each) is None


def test_a_text_that_cannot_fit_is_refused_at_once(tokenizer: Tokenizer) -> None:
    text = "x" * 30_000_000
    began = time.process_time()
    with pytest.raises(
        RequestError, match="prompt has 30000000 characters, which are more than the 256 tokens the eng"
    ):
        tokenizer.encode(text, max_tokens=256)
    with pytest.raises(RequestError, match=r"prompt has 30000000 characters, .*: shorten it or build the engine"):
        tokenizer.encode_chat([{"role": "user", "content": text}], max_tokens=256)
    assert time.process_time() - began < 2


def test_a_long_text_that_may_fit_is_tokenized(tokenizer: Tokenizer) -> None:
    text = "hello world " * 5000
    whole = tokenizer.encode(text, max_tokens=10**6)
    assert whole.dtype == np.int64
    assert whole.tolist() == tokenizer._tokenizer.encode(text).ids
    assert tokenizer.encode_chat([{"role": "user", "content": text}]).tolist() == whole.tolist()
    with pytest.raises(RequestError, match=r"the text is not UTF-8 \(byte 60000\)"):
        tokenizer.encode(text + "\ud800")


def test_interrupt_ends_the_wait_for_a_call() -> None:
    timer = threading.Timer(0.1, _thread.interrupt_main)
    timer.start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        interruptible(lambda: time.sleep(5))
    assert time.monotonic() - began < 3
    timer.join()


def test_a_call_in_a_thread_gives_its_result_or_error() -> None:
    assert interruptible(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        interruptible(lambda: 1 // 0)


def test_the_tokenizer_leaves_other_threads_the_interpreter(tokenizer: Tokenizer) -> None:
    # Ctrl-C can end tokenizing only because this thread runs meanwhile.
    text, waking = "hello world, 12345 words. " * 20_000, []
    stop = threading.Event()

    def wake() -> None:
        while not stop.wait(0.005):
            waking.append(time.monotonic())

    thread = threading.Thread(target=wake)
    thread.start()
    began = time.monotonic()
    tokenizer.encode(text)
    ended = time.monotonic()
    stop.set()
    thread.join()
    within = [each for each in waking if began < each < ended]
    assert len(within) > 5
    assert max(np.diff([began, *within, ended])) < (ended - began) / 2
