"""The C++ tokenizer gives the ids, texts and streamed texts that the `tokenizers` library gives."""

import functools
import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import models, normalizers, pre_tokenizers

from edgekiln.engine.manifest import SpecialTokens
from edgekiln.runtimes.generate.answer_text import AnswerText
from edgekiln.runtimes.text.text_length import most_characters
from edgekiln.runtimes.text.tokenizer import Tokenizer
from support.cpp_host import program, refused
from support.cpp_tokenizers import FAMILIES, code_texts, corpus


class Both:
    """One tokenizer.json in Python and in C++."""

    def __init__(self, path: Path) -> None:
        self.fast = FastTokenizer.from_file(str(path))
        self.python = Tokenizer(self.fast, SpecialTokens())
        self.process = subprocess.Popen([program("edgekiln_tokenize"), path], stdin=-1, stdout=-1)

    def ask(self, request: bytes) -> bytes:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(request)
        self.process.stdin.flush()
        return self.process.stdout.readline()

    def encode(self, text: bytes, how: bytes = b"encode") -> list[int]:
        return [int(token) for token in self.ask(b"%s %d\n%s" % (how, len(text), text)).split()]

    def answer(self, what: str, ids: Sequence[int]) -> Any:
        return json.loads(self.ask(f"{what} {' '.join(map(str, ids))}\n".encode()))

    def compare(self, given: bytes, decode: bool = True) -> None:
        text = given.decode(errors="replace")
        for how, add_special in ((b"encode", True), (b"plain", False)):
            expected = self.python.encode(text, add_special).tolist()
            assert self.encode(given, how) == expected, text
        if decode:
            self.compare_ids(expected)

    def compare_ids(self, ids: Sequence[int]) -> None:
        assert self.answer("decode", ids) == self.python.decode(ids)
        stream = self.python.stream()
        assert self.answer("stream", ids) == [*map(stream.push, ids), stream.flush()]
        stream = self.python.stream("show")
        shown = self.answer("show", ids)
        assert shown == [*map(stream.push, ids), stream.flush()]
        assert "".join(shown) == self.fast.decode(ids, skip_special_tokens=False)

    def compare_answer(self, ids: Sequence[int], stop: Sequence[str], hide: bool) -> None:
        """The pieces of an answer that ends before a stop string."""
        request = {"ids": list(ids), "stop": list(stop), "hide": hide}
        pieces, stopped = json.loads(self.ask(b"answer %s\n" % json.dumps(request).encode()))
        text = AnswerText(self.python, tuple(stop), "hide" if hide else "show", frozenset())
        expected = [text.push(token) for token in ids[: len(pieces)]]
        if len(pieces) > len(ids):
            expected.append(text.flush())
        assert pieces == [piece for piece, _ in expected]
        assert stopped == expected[-1][1]
        assert not any(ended for _, ended in expected[:-1])


@pytest.fixture(scope="session")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Both]]:
    """The tokenizer of a family, created on first use."""
    directory = tmp_path_factory.mktemp("tokenizers")
    started: list[Both] = []

    @functools.cache
    def make(family: str) -> Both:
        path = directory / f"{family}.json"
        if family == "smollm2-135m":
            from edgekiln.sources.resolve import resolve

            path.write_text(resolve(family).tokenizer_json, encoding="utf-8")
        else:
            training = [text.decode(errors="ignore") for text in corpus(seed=1)[::4]] + code_texts(50_000)
            FAMILIES[family](training).save(str(path))
        started.append(Both(path))
        return started[-1]

    yield make
    for both in started:
        both.process.communicate(timeout=60)
        assert both.process.returncode == 0


@pytest.fixture(params=[*FAMILIES, "smollm2-135m"])
def both(request: pytest.FixtureRequest, tokenizers: Callable[[str], Both]) -> Both:
    return tokenizers(request.param)


@pytest.fixture(scope="session")
def documents() -> list[bytes]:
    documents = corpus()
    assert sum(map(len, documents)) >= 1_000_000
    return documents


def test_ids_text_and_pieces_of_a_corpus(both: Both, documents: list[bytes]) -> None:
    for i, document in enumerate(documents):
        both.compare(document, decode=i % 4 == 0)


def test_most_characters_of_a_token(both: Both) -> None:
    assert both.answer("longest", []) == most_characters(both.fast)


def test_every_character(both: Both) -> None:
    """Every character between letters and after a space, where patterns and added tokens depend on it."""
    codes = [code for code in range(0x32400) if not (0xD800 <= code < 0xF900 or 0x17000 <= code < 0x18800)]
    codes = [code for code in codes if code % 16 == 0 or not (0x4E00 <= code < 0x9F00 or 0x20000 <= code < 0x31300)]
    codes += [*range(0xE0000, 0xE0200), 0xF0000, 0x10FFFF]
    for at in range(0, len(codes), 4096):
        text = "".join(f"a{chr(code)} {chr(code)}{chr(code)}mask" for code in codes[at : at + 4096])
        assert both.encode(text.encode(), b"plain") == both.python.encode(text, False).tolist()


def test_an_answer_that_ends_within_a_character(both: Both) -> None:
    """An incomplete character is flushed at the end; byte fallback turns each of its bytes into U+FFFD."""
    lead = both.python.encode("a", False).tolist()
    bytes_ = both.python.encode("a\U00012345", False).tolist()[len(lead) :]
    for count in range(1, len(bytes_)):
        ids = lead + bytes_[:count]
        both.compare_ids(ids)
        *pieces, flushed = both.answer("stream", ids)
        assert "".join(pieces) + flushed == both.fast.decode(ids, skip_special_tokens=True)
        by_byte = both.fast.id_to_token(bytes_[0]) == "<0xF0>"
        assert flushed == "\ufffd" * (count if by_byte else 1)


def test_any_ids(both: Both) -> None:
    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.integers(0, both.fast.get_vocab_size() + 3), max_size=40))
    def compare(ids: list[int]) -> None:
        both.compare_ids(ids)

    compare()


def test_answers_with_stop_strings(both: Both) -> None:
    """Stop strings that are cut out of the answer's own text, or are special tokens."""
    size = both.fast.get_vocab_size()
    special = [added.content for added in both.fast.get_added_tokens_decoder().values()]
    ids_of_special = [both.fast.token_to_id(text) for text in special]

    @settings(max_examples=100, deadline=None)
    @given(st.data())
    def compare(data: st.DataObject) -> None:
        token = st.integers(0, size + 3) | st.sampled_from(ids_of_special)
        ids = data.draw(st.lists(token, min_size=1, max_size=20))
        text = both.fast.decode(ids, skip_special_tokens=data.draw(st.booleans()))
        start = data.draw(st.integers(0, len(text)))
        cut = text[start : start + data.draw(st.integers(1, 6))]
        others = data.draw(st.lists(st.sampled_from(special) | st.text(min_size=1, max_size=2), max_size=2))
        both.compare_answer(ids, [*filter(None, [cut]), *others], data.draw(st.booleans()))

    compare()


def test_any_text(both: Both) -> None:
    @settings(max_examples=60, deadline=None)
    @given(st.text(max_size=60) | st.text("a ▁\n.,-1ﬁN[LR]mask<s>'", max_size=60))
    def compare(text: str) -> None:
        both.compare(text.encode())

    compare()


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD", "Lowercase"])
def test_normalization(form: str, tmp_path: Path) -> None:
    """Every character with a normalization, alone and with combining marks that are reordered."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    fast = FastTokenizer(models.BPE(vocab={character: i for i, character in enumerate(alphabet)}, merges=[]))
    fast.normalizer = getattr(normalizers, form)()
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    fast.save(str(tmp_path / "bytes.json"))
    both = Both(tmp_path / "bytes.json")
    for first in (*range(0, 0x3400, 256), *range(0xA600, 0xB000, 256), *range(0xF900, 0x20000, 256), 0x2F800, 0x2F900):
        characters = [chr(code) for code in range(first, first + 256)]
        text = "\n".join(f"{each} a\u0301{each}\u0323 {each}\u0338\u3099" for each in characters)
        assert both.encode(text.encode()) == fast.encode(text).ids
    both.process.communicate(timeout=60)


BPE = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}
DAMAGED = [
    ({"model": None}, "model: it is missing"),
    ({"model": {**BPE, "vocab": {"a": -1}}}, "model.vocab has a negative number"),
    ({"model": {**BPE, "vocab": {"a": 2**24}}}, "the id 16777216 in model.vocab is too large"),
    ({"model": {**BPE, "merges": ["a b c"]}}, 'the merge "a b c" is not of two tokens'),
    ({"model": {**BPE, "merges": [["b", "a"]]}}, 'the token "ba" of model.merges is not in model.vocab'),
    ({"model": {**BPE, "merges": [["b"]]}}, "a merge in model.merges is not of two tokens"),
    ({"added_tokens": [{"content": 1}]}, "added_tokens.0.content: it is not a string"),
    ({"normalizer": {"type": "Strip", "strip_left": 1}}, "normalizer.strip_left: it is not true or false"),
    (
        {"pre_tokenizer": {"type": "Metaspace", "replacement": "__"}},
        "pre_tokenizer.replacement: it is not one character",
    ),
]
UNSUPPORTED = [
    ({"model": {"type": "Unigram", "vocab": [["a", 0.5]]}}, "a model of type Unigram"),
    ({"model": {**BPE, "dropout": 0.1}}, "a model with dropout"),
    ({"model": {**BPE, "end_of_word_suffix": "</w>"}}, "a model with end_of_word_suffix"),
    ({"normalizer": {"type": "StripAccents"}}, "a normalizer of type StripAccents"),
    ({"pre_tokenizer": {"type": "BertPreTokenizer"}}, "a pre-tokenizer of type BertPreTokenizer"),
    ({"decoder": {"type": "CTC"}}, "a decoder of type CTC"),
    ({"post_processor": {"type": "RobertaProcessing"}}, "a post-processor of type RobertaProcessing"),
    *(
        (
            {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}},
            f"the pattern {pattern} with {part}",
        )
        for pattern, part in [
            (r"\p{L}{2}+", "{2}+"),
            ("[a-z&&[aeiou]]", "a class in a class"),
            (r"\bx", r"\b"),
            (r"a(?i)b", "(?i"),
            (r"\p{Greek}", r"\p{Greek}"),
            ("(a", "missing closing parenthesis"),
        ]
    ),
]


@pytest.mark.parametrize(("part", "reason"), DAMAGED)
def test_damaged_files(part: dict[str, Any], reason: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": BPE} | part))
    sentence = refused("edgekiln_tokenize", tmp_path / "tokenizer.json")
    assert sentence == f"tokenizer.json is damaged: {reason}, build the engine again"


NO_JSON = ["", "{", "[" * 100_000, '{"model": "\\ud800"}', '{"model": "\udc80"}', "\ufeff{}", "{}\0", '{"a": 1e999}']


@pytest.mark.parametrize("text", [*NO_JSON, "[" * 101 + "]" * 101])
def test_files_that_are_not_json(text: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(text, errors="surrogateescape")
    sentence = refused("edgekiln_tokenize", tmp_path / "tokenizer.json")
    assert sentence == "tokenizer.json is damaged: it is not JSON, build the engine again"


@pytest.mark.parametrize(("part", "reason"), UNSUPPORTED)
def test_parts_that_are_not_known(part: dict[str, Any], reason: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": BPE} | part))
    sentence = refused("edgekiln_tokenize", tmp_path / "tokenizer.json")
    assert sentence == f"tokenizer.json has {reason}, which this library does not know"
