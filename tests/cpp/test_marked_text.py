"""Text of messages becomes no control token in libedgekiln: the ids are those of Python and of `tokenizers`."""

import itertools
import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as FastTokenizer

from edgekiln.runtimes.text.control_tokens import ControlTokens
from edgekiln.runtimes.text.marked_text import MarkedText, own
from support.cpp_host import program
from support.cpp_tokenizers import FAMILIES, code_texts, corpus

Parts = Sequence[tuple[str, bool]]  # text, and whether it is given
_TEXTS = [
    "<s>",
    "</s>",
    "<|im_start|>",
    "<|im_end|>",
    "[S]",
    "[L]",
    " ",
    "mask",
    "\n\n",
    "user",
    "é",
    "日本",
    "<",
    "|>",
]


class Both:
    """One tokenizer.json in Python and in C++."""

    def __init__(self, fast: FastTokenizer, path: Path, turn_marks: Sequence[int] = ()) -> None:
        fast.save(str(path))
        self.fast = fast
        self.control = {token for token, added in fast.get_added_tokens_decoder().items() if added.special} | {
            *turn_marks
        }
        self._python = ControlTokens(fast, turn_marks)
        command = [program("edgekiln_tokenize"), path, *map(str, turn_marks)]
        self._process = subprocess.Popen(command, stdin=-1, stdout=-1)

    def __enter__(self) -> "Both":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=60)
        assert self._process.returncode == 0

    def cpp(self, parts: Parts) -> list[int]:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(b"parts %s\n" % json.dumps(parts).encode())
        self._process.stdin.flush()
        return [int(token) for token in self._process.stdout.readline().split()]

    def python(self, parts: Parts) -> list[int]:
        text = own("").join(MarkedText(part) if is_given else own(part) for part, is_given in parts)
        return self._python.encode(text, lambda fast, part: fast.encode(part, add_special_tokens=False).ids)

    def plain(self, text: str, encode_special_tokens: bool = False) -> list[int]:
        """The ids of `tokenizers`."""
        self.fast.encode_special_tokens = encode_special_tokens
        ids = self.fast.encode(text, add_special_tokens=False).ids
        self.fast.encode_special_tokens = False
        return ids


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Both]]:
    directory = tmp_path_factory.mktemp("tokenizers")
    texts = [text.decode(errors="ignore") for text in corpus(seed=1)[::9]] + code_texts(20_000)
    made = {name: Both(make(texts), directory / f"{name}.json") for name, make in FAMILIES.items()}
    yield made
    for both in made.values():
        both.__exit__()


@pytest.mark.parametrize("family", FAMILIES)
def test_ids_are_those_of_python_and_of_tokenizers(family: str, families: dict[str, Both]) -> None:
    both = families[family]

    @settings(max_examples=120, deadline=None)
    @given(st.lists(st.tuples(st.lists(st.sampled_from(_TEXTS), max_size=4).map("".join), st.booleans()), max_size=6))
    def compare(parts: list[tuple[str, bool]]) -> None:
        text = "".join(part for part, _ in parts)
        assert both.cpp(parts) == both.python(parts)
        assert both.cpp([(part, False) for part, _ in parts]) == both.plain(text)
        ids = both.cpp([(part, True) for part, _ in parts])
        expected = both.plain(text, encode_special_tokens=True)
        # The library's merges can build a control token from characters.
        assert ids == expected or set(expected) & both.control
        assert not set(ids) & both.control

    compare()


@pytest.mark.parametrize("family", FAMILIES)
def test_text_without_control_tokens_keeps_its_ids(family: str, families: dict[str, Both]) -> None:
    both = families[family]
    for document in corpus()[5::40]:
        text = document.decode(errors="replace")
        for special in ("<s>", "</s>", "<|im_start|>", "<|im_end|>", "[S]", "[s]", "<unk>"):
            text = text.replace(special, "")
        parts = [("<s>[S]<|im_start|>user\n", False), (text, True), ("<|im_end|>\n", False)]
        assert both.cpp(parts) == both.plain("".join(part for part, _ in parts))


def _bytes(*added: AddedToken) -> FastTokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    fast = FastTokenizer(models.BPE(vocab={character: i for i, character in enumerate(alphabet)}, merges=[]))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    fast.add_tokens(list(added))
    return fast


FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


@pytest.mark.parametrize("flags", [*itertools.product([False, True], repeat=len(FLAGS))], ids=str)
@pytest.mark.parametrize("normalizer", [None, normalizers.NFKC(), normalizers.Lowercase()], ids=str)
def test_kinds_of_control_tokens(flags: Sequence[bool], normalizer: object, tmp_path: Path) -> None:
    """A token that is special or a turn mark, with each of its flags, beside one that is neither."""
    fast = _bytes(AddedToken("<e>", **dict(zip(FLAGS, flags, strict=True))), AddedToken("<think>", special=False))
    fast.normalizer = normalizer
    with Both(fast, tmp_path / "tokenizer.json", [256]) as both:
        for before, given_, after in itertools.product(
            ["", "a", "<e> ", "<"], ["<e>", " <e> x", "e>", "y"], ["", "<e>", "e>", "_"]
        ):
            parts = [(before, False), (given_, True), (after, False), ("<think>", True)]
            ids = both.cpp(parts)
            assert ids == both.python(parts), parts
            assert ids[-1] == 257
            assert ids.count(256) <= before.count("<e>") + after.count("<e>")
        assert both.cpp([("<e>", False), (" <e>", True)]) != both.plain("<e> <e>")


def test_characters_that_normalization_makes(tmp_path: Path) -> None:
    """Full-width characters of a message are no control token, those of the template are."""
    fast = _bytes(AddedToken("<e>", normalized=True, special=True))
    fast.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("{", "<"), normalizers.Strip()])
    with Both(fast, tmp_path / "tokenizer.json") as both:
        letters = [both.plain(character)[0] for character in "<e>"]
        for text in ("<e>", "\uff1ce\uff1e", "{e>", "<\uff45>"):
            assert both.cpp([(text, True)]) == letters
            assert both.cpp([(text, False)]) == both.plain(text) == [256]
            for cut in (1, 2):
                assert both.cpp([(text[:cut], False), (text[cut:], True)]) == letters
        # An accent that joins a character of the template, and Hangul.
        assert both.cpp([("<e>e", False), ("\u0301\u1100\u1161\u11a8<e>", True)]) == both.plain("<e>é각<") + letters[1:]


def test_the_longest_token_of_the_template_counts(tmp_path: Path) -> None:
    fast = _bytes(*(AddedToken(text, normalized=False, special=True) for text in ("<s>", "<s>x", "><t>")))
    with Both(fast, tmp_path / "tokenizer.json") as both:
        x, close = both.plain("x")[0], both.plain(">")[0]
        assert both.cpp([("<s>x", False)]) == [257]
        assert both.cpp([("<s>", False), ("x", True)]) == both.python([("<s>", False), ("x", True)]) == [256, x]
        # A message that ends with the start of a token does not hide the template's.
        assert both.cpp([(">", True), ("<s>", False)]) == [close, 256]


def test_single_words_beside_control_tokens(tmp_path: Path) -> None:
    fast = _bytes(
        AddedToken("mask", single_word=True, normalized=False),
        *(AddedToken(text, special=True) for text in ("<s>", "end")),
    )
    with Both(fast, tmp_path / "tokenizer.json") as both:
        for before, after in itertools.product(["<s>", "end", "x"], repeat=2):
            parts = [("<s> ", True), (f"{before}mask{after}", False)]
            ids = both.cpp(parts)
            assert ids == both.python(parts), parts
            assert (256 in ids) == (before == after == "<s>")


def test_merges_of_normalized_characters_build_no_control_token(tmp_path: Path) -> None:
    vocabulary = {text: i for i, text in enumerate(["<", "s", ">", "s>", "<s>"])}
    fast = FastTokenizer(models.BPE(vocab=vocabulary, merges=[("s", ">"), ("<", "s>")]))
    fast.normalizer = normalizers.Lowercase()
    fast.add_special_tokens([AddedToken("<s>", normalized=False, special=True)])
    with Both(fast, tmp_path / "tokenizer.json") as both:
        parts = [("<s>", False), ("<S>", True)]
        assert both.cpp(parts) == both.python(parts) == [4, 0, 3]


def test_merges_build_no_control_token(tmp_path: Path) -> None:
    """Tokenizers that were converted from SentencePiece have merges of the texts of control tokens."""
    vocabulary = {text: i for i, text in enumerate(["<unk>", "<", "/", "s", ">", "</", "s>", "</s>", "!"])}
    merges = [("<", "/"), ("s", ">"), ("</", "s>")]
    for ignore_merges in (False, True):
        model = models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", ignore_merges=ignore_merges)
        fast = FastTokenizer(model)
        fast.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in ("</s>", "<unk>", "!")])
        with Both(fast, tmp_path / "tokenizer.json") as both:
            assert both.cpp([("</s>", False)]) == [7]
            assert both.cpp([("</s>", True)]) == both.python([("</s>", True)]) == [5, 6]
            # A token of one character has no other text.
            assert both.cpp([("!", True)]) == both.python([("!", True)]) == [8]
