"""Calibration data: loading, warnings about unrepresentative data, and one sentence for each error."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgekiln.calib.data.checks import unrepresentative
from edgekiln.calib.data.loader import windows_of
from edgekiln.calib.data.options import DataOptions
from edgekiln.engine.manifest import SpecialTokens
from edgekiln.errors import RequestError
from edgekiln.runtimes.text.tokenizer import Tokenizer
from support.models import CHAT_TEMPLATE, VOCABULARY, tiny_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(tiny_tokenizer().backend_tokenizer, SpecialTokens(), CHAT_TEMPLATE)


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str, str], str]:
    def write(name: str, content: str) -> str:
        (tmp_path / name).write_text(content, encoding="utf-8")
        return str(tmp_path / name)

    return write


def test_windows_of_a_text_are_spread_evenly(tokenizer: Tokenizer, file: Callable[[str, str], str]) -> None:
    text = "".join(f"{number:08d}" for number in range(100))
    windows = windows_of(DataOptions(file("a.txt", text), samples=3, length=80), tokenizer)
    assert windows.dtype == np.int64
    assert [tokenizer.decode(row) for row in windows] == [text[0:80], text[320:400], text[720:800]]


def test_short_data_gives_fewer_windows_or_one_shorter_window(
    tokenizer: Tokenizer, file: Callable[[str, str], str]
) -> None:
    assert windows_of(DataOptions(file("a.txt", "x" * 100), samples=9, length=30), tokenizer).shape == (3, 30)
    assert windows_of(DataOptions(file("b.txt", "x" * 10), samples=9, length=30), tokenizer).shape == (1, 10)


def test_jsonl_of_texts_and_messages(tokenizer: Tokenizer, file: Callable[[str, str], str]) -> None:
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    lines = [json.dumps({"text": "one ", "id": 4}), "", json.dumps({"messages": chat})]
    (row,) = windows_of(DataOptions(file("a.jsonl", "\n".join(lines)), samples=1, length=1000), tokenizer)
    end, user, assistant = (tokenizer.encode(f"<|{name}|>")[0] for name in ("end", "user", "assistant"))
    expected = [*b"one ", user, *b"hi", end, assistant, *b"ho", end]
    assert len(row) == len(expected)
    assert tokenizer.decode(row) == "one hiho"
    assert [token for token in row if token in (end, user, assistant)] == [user, end, assistant, end]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", "", "0 tokens"),
        ("a.jsonl", "\n\n", "0 tokens"),
        ("a.jsonl", '{"text": "a"}\n{"text": 4}', "line 2: text: Input should be a valid string"),
        ("a.jsonl", '{"texts": "a"}', 'line 1: it needs either "text" or "messages"'),
        ("a.jsonl", '{"text": "a", "messages": []}', 'line 1: it needs either "text" or "messages"'),
        ("a.jsonl", "hello", "line 1 is not JSON"),
        ("a.jsonl", '["a"]', "line 1: Input should be a valid dictionary"),
    ],
)
def test_a_bad_file_gets_one_sentence(
    tokenizer: Tokenizer, file: Callable[[str, str], str], name: str, content: str, said: str
) -> None:
    path = file(name, content)
    with pytest.raises(RequestError) as caught:
        windows_of(DataOptions(path), tokenizer)
    assert path in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_text_that_is_not_utf8(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"ab\xff")
    with pytest.raises(RequestError, match=r"not UTF-8 text \(byte 2\)"):
        windows_of(DataOptions(str(tmp_path / "a.txt")), tokenizer)
    with pytest.raises(RequestError, match="cannot read the calibration data"):
        windows_of(DataOptions(str(tmp_path)), tokenizer)


def test_a_data_set_needs_its_library(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RequestError, match=r"no calibration file 'wikitext'.*pip install datasets"):
        windows_of(DataOptions("wikitext"), tokenizer)


@pytest.mark.parametrize("name", ["nosuch.txt", "texts/nosuch.jsonl", "/nosuch/text", "./nosuch", "a/b/c", "my text"])
def test_a_missing_file_is_not_looked_for_on_the_hub(tokenizer: Tokenizer, name: str) -> None:
    with pytest.raises(RequestError, match=f"^there is no calibration file '{name}'$"):
        windows_of(DataOptions(name), tokenizer)


def test_windows_fit_the_model() -> None:
    assert DataOptions(length=64).fitted(64).length == 64
    assert DataOptions().fitted(100).length == 100
    assert DataOptions(length=64).fitted(None).length == 64
    with pytest.raises(RequestError, match="calib length 65 is over the model's context of 64: lower --calib-length"):
        DataOptions(length=65).fitted(64)


class FakeDatasets:
    """Replaces the `datasets` library."""

    def __init__(self, rows: list[dict[str, object]]) -> None:
        self._rows = rows

    def load_dataset(self, name: str, split: str, streaming: bool) -> list[dict[str, object]]:
        if name != "known":
            raise ValueError(f"no {name}\non any hub")
        assert (split, streaming) == ("train", True)
        return self._rows


def test_a_data_set(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, "datasets", FakeDatasets([{"text": "abc"}, {"text": "def"}]))
    assert tokenizer.decode(windows_of(DataOptions("known"), tokenizer)[0]) == "abcdef"
    with pytest.raises(RequestError, match="'other' is neither a file nor a data set that can be read: no other"):
        windows_of(DataOptions("other"), tokenizer)
    monkeypatch.setitem(sys.modules, "datasets", FakeDatasets([{"story": "abc"}]))
    with pytest.raises(RequestError, match="no column of texts named text"):
        windows_of(DataOptions("known"), tokenizer)


@pytest.mark.parametrize(("samples", "length", "said"), [(0, 8, "samples must be at least 1, got 0"), (1, 1, "got 1")])
def test_options_out_of_range(samples: int, length: int, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        DataOptions(None, samples, length)


def letters(tokenizer: Tokenizer, text: str) -> np.ndarray:
    return tokenizer.encode(text)[None]


def test_unrepresentative_data_is_reported(tokenizer: Tokenizer) -> None:
    rng = np.random.default_rng(0)
    varied = "".join(chr(97 + letter) for letter in rng.integers(0, 26, 8000))
    assert unrepresentative(letters(tokenizer, varied), tokenizer, VOCABULARY) == []
    (few,) = unrepresentative(letters(tokenizer, varied[:500]), tokenizer, VOCABULARY)
    assert "500 tokens" in few
    (twice,) = unrepresentative(letters(tokenizer, varied[:3001] * 3), tokenizer, VOCABULARY)
    assert "67% of the calibration data repeats itself" in twice


def test_a_script_that_the_model_knows_and_the_data_lacks(
    monkeypatch: pytest.MonkeyPatch, tokenizer: Tokenizer
) -> None:
    words = {1: "слово", 2: "дело"}
    data = "".join(chr(97 + letter) for letter in np.random.default_rng(0).integers(0, 26, 8000))
    windows = letters(tokenizer, data)
    decode = tokenizer.decode
    monkeypatch.setattr(tokenizer, "decode", lambda ids: words.get(ids[0], "word") if len(ids) == 1 else decode(ids))
    (one,) = unrepresentative(windows, tokenizer, 8)
    assert "all in LATIN letters and the model also knows CYRILLIC" in one
    assert unrepresentative(windows, tokenizer, 1000) == [], "a few such words do not make a model know a script"
