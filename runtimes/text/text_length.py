"""The fewest tokens that a text can have, from its length alone."""

import json
from collections.abc import Iterator
from typing import Any

from tokenizers import Tokenizer as FastTokenizer
from tokenizers import models

# Normalizers and pre-tokenizers that do not shorten a text, and the most characters that each makes one of.
_CHARACTERS = {"Prepend": 1, "NFC": 4, "ByteLevel": 1, "Digits": 1, "Metaspace": 1}
_WHOLE = 1


def most_characters(tokenizer: FastTokenizer) -> int | None:
    """The most characters that one token stands for; None if that is not bounded or not known.

    Tokens can stand for any number of characters where a normalizer or pre-tokenizer drops some, where added tokens
    take the white space around them, or where unknown characters are fused or dropped.
    """
    model = tokenizer.model
    if not isinstance(model, models.BPE):
        return None
    factor = _WHOLE
    types = set()
    for part in (tokenizer.normalizer, tokenizer.pre_tokenizer):
        for component in _components(part):
            types.add(component["type"])
            if component["type"] not in _CHARACTERS and not _keeps(component):
                return None
            factor *= _CHARACTERS.get(component["type"], _WHOLE)
    complete = "ByteLevel" in types or model.byte_fallback or (model.unk_token is not None and not model.fuse_unk)
    strips = any(token.lstrip or token.rstrip for token in tokenizer.get_added_tokens_decoder().values())
    if not complete or strips:
        return None
    return factor * max(map(len, tokenizer.get_vocab()), default=_WHOLE)


def _keeps(component: dict[str, Any]) -> bool:
    """Whether a component that can drop characters keeps them all."""
    if component["type"] == "Split":
        return component["behavior"] != "Removed"
    pattern = component.get("pattern", {}).get("String", "")
    return component["type"] == "Replace" and 0 < len(pattern) <= len(component["content"])


def _components(part: Any) -> Iterator[dict[str, Any]]:
    """The components of a normalizer or pre-tokenizer, as tokenizer.json describes them."""
    pending = [] if part is None else [json.loads(part.__getstate__())]
    while pending:
        component = pending.pop()
        inner = component.get("normalizers", component.get("pretokenizers"))
        pending += inner if inner is not None else []
        if inner is None:
            yield component
