"""Tokenization in which control tokens are recognized only in a chat template's own text.

A control token is an added token that is special, or that is bos, eos or pad. Where text of messages contains none,
the ids are those of the tokenizer. Otherwise a copy of the tokenizer is used whose control tokens have other names.
"""

import functools
import itertools
import json
import os.path
import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as FastTokenizer

from edgekiln.runtimes.text.marked_text import MarkedText

_WORD = re.compile(r"\w")


class ControlTokens:
    """The control tokens of a tokenizer."""

    def __init__(self, tokenizer: FastTokenizer, turn_marks: Iterable[int]) -> None:
        """Find them; `turn_marks` are the ids of bos, eos and pad."""
        marks = set(turn_marks)
        added = tokenizer.get_added_tokens_decoder()
        self._tokenizer = tokenizer
        self._control = {
            token.content: token for id_, token in added.items() if (token.special or id_ in marks) and token.content
        }
        # Ordinary characters that the vocabulary lacks become the unknown token, which is often a special one.
        unknown = getattr(tokenizer.model, "unk_token", None)
        self._ids = {tokenizer.token_to_id(token) for token in self._control if token != unknown}
        # The library looks for tokens in the text first, then for those that are normalized in the normalized rest.
        self._patterns = [
            _any_of(token.content for token in added.values() if token.content and token.normalized == normalized)
            for normalized in (False, True)
        ]

    def encode(self, text: MarkedText, encode: Callable[[FastTokenizer, str], list[int]]) -> list[int]:
        """Token ids of a text.

        Args:
            text: marked where it comes from messages.
            encode: encodes with a tokenizer.
        """
        plain = str.__str__(text)
        if not self._is_forged(plain, text.marks):
            ids = encode(self._tokenizer, plain)
            if not any(text.marks) or not self._is_merged(ids, plain):
                return ids
        prefix, renamed = self._renamed
        while prefix in plain:  # a text that was chosen to contain the names
            del self._renamed
            prefix, renamed = self._renamed
        return encode(renamed, self._with_names(plain, text.marks, prefix))

    def _is_forged(self, text: str, marks: bytes) -> bool:
        """Whether the tokenizer would find a control token that has a character of a message."""
        if not any(marks):
            return False
        matches = list(self._matches(text))
        if any(token in self._control and any(marks[start:stop]) for start, stop, token in matches):
            return True
        normalizer = self._tokenizer.normalizer
        normalized = [token for token in self._control.values() if token.normalized]
        if normalizer is None or not normalized:
            return False
        result = normalizer.normalize_str(text)
        own = [token for _, _, token in matches]
        return any(
            result.count(normalizer.normalize_str(token.content)) != own.count(token.content) for token in normalized
        )

    def _is_merged(self, ids: list[int], text: str) -> bool:
        """Whether merges have built control tokens of normalized characters, as "<s>" of "<S>" in lower case."""
        found = sum(map(self._ids.__contains__, ids))
        return found > 0 and found > sum(token in self._control for *_, token in self._matches(text))

    def _matches(self, text: str) -> Iterator[tuple[int, int, str]]:
        """(start, stop, added token) of the added tokens in a text, in order."""
        at = 0
        first, second = self._patterns
        for match in (*first.finditer(text), None):
            end = match.start() if match else len(text)
            for other in second.finditer(text, at, end):
                yield other.start(), other.end(), other[0]
            if match:
                yield match.start(), match.end(), match[0]
                at = match.end()

    def _with_names(self, text: str, marks: bytes, prefix: str) -> str:
        """The text with the control tokens of its own parts under their names in the copy."""
        names = _names(self._control, prefix)
        pieces: list[str] = []
        at = 0
        for start, stop in _own_parts(marks):
            pieces.append(text[at:start])
            at = start
            for first, last, token in self._matches(text[start:stop]):
                pieces.append(text[at : start + first])
                at = start + last
                known = self._control.get(token)
                alone = known is None or not known.single_word or _is_alone(text, start + first, at)
                pieces.append(names[token] if known is not None and alone else text[start + first : at])
            pieces.append(text[at:stop])
            at = stop
        pieces.append(text[at:])
        return "".join(pieces)

    @functools.cached_property
    def _renamed(self) -> tuple[str, FastTokenizer]:
        """A prefix of names, and a copy of the tokenizer whose control tokens have such names and the same ids."""
        # Lower-case letters, digits and "~" pass every normalizer unchanged.
        prefix = f"q{secrets.token_hex(12)}"
        names = _names(self._control, prefix)
        settings = json.loads(self._tokenizer.to_str())
        for token in settings["added_tokens"]:
            token["content"] = names.get(token["content"], token["content"])
        model = settings["model"]
        vocabulary = model["vocab"]
        if isinstance(vocabulary, dict):
            # Merges build no control token: files that were converted from SentencePiece have some that would. A
            # character that is one, such as the pad token "!" of GPT-2's vocabulary, has no other token.
            unmerged = {token for token in names if len(token) > 1}
            if "merges" in model:
                model["merges"] = [
                    merge
                    for merge in model["merges"]
                    if unmerged.isdisjoint(_halves(merge)) and "".join(_halves(merge)) not in names
                ]
            model["vocab"] = {token: id_ for token, id_ in vocabulary.items() if token not in unmerged}
            model["vocab"] |= {name: vocabulary[token] for token, name in names.items() if token in vocabulary}
            model["unk_token"] = names.get(model.get("unk_token"), model.get("unk_token"))
        else:
            model["vocab"] = [[names.get(token, token), score] for token, score in vocabulary]
        copy = FastTokenizer.from_str(json.dumps(settings))
        return prefix, copy


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """A pattern of the longest of several texts at the leftmost position; of nothing if there are none."""
    return re.compile(_longest(sorted(set(texts))) or r"(?!)")


def _longest(texts: list[str]) -> str:
    """The source of `_any_of`, as a trie: thousands of texts are as fast as a few."""
    if not texts:
        return ""
    head = os.path.commonprefix(texts)  # noqa: RUF071 - of characters, as wanted
    rest = [text[len(head) :] for text in texts]
    groups = [list(group) for start, group in itertools.groupby(rest, key=lambda text: text[:1]) if start]
    inner = "|".join(map(_longest, groups))
    return re.escape(head) + (f"(?:{inner})" if inner else "") + ("?" if inner and "" in rest else "")


def _names(control: dict[str, AddedToken], prefix: str) -> dict[str, str]:
    # Names begin and end with letters where the tokens do: tokens of single words beside them depend on it.
    first, last = ({token: "" if _WORD.match(token[end]) else "~" for token in control} for end in (0, -1))
    return {token: f"{first[token]}{prefix}{i:06d}{last[token]}" for i, token in enumerate(control)}


def _halves(merge: Any) -> list[str]:
    return merge.split(" ") if isinstance(merge, str) else list(merge)


def _own_parts(marks: bytes) -> Iterator[tuple[int, int]]:
    for match in re.finditer(rb"\0+", marks):
        yield match.span()


def _is_alone(text: str, start: int, stop: int) -> bool:
    """Whether no word continues beyond text[start:stop]."""
    return not (_WORD.match(text[start - 1 : start]) or _WORD.match(text[stop : stop + 1]))
