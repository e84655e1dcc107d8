"""Mutated bytes and JSON documents, drawn from a `random.Random`: the same generator gives the same mutation."""

import copy
import json
import math
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

DEEP = 100_000  # levels of nesting
# A string that begins with this mark is written to the document as the text behind it.
_RAW = "\x02"
_RAW_TEXTS = {
    "deep-list": "[" * DEEP + "]" * DEEP,
    "deep-object": '{"a":' * DEEP + "0" + "}" * DEEP,
    "unclosed": "[" * DEEP,
    "digits": "9" * 5000,
    "comment": "1 /* one */",
}
# Values of every JSON type, at the edges of what numbers and strings may be.
VALUES: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2, 3, 7, -(10**9), 10**9, 2**31, 2**32, 2**63, 2**64, 10**30),
    *(0.5, -0.0, 1.0, 1e-320, 1e308, -1e308, math.nan, math.inf, -math.inf),
    *("", "x", "0", "true", "NaN", "\ud800", "\0", "../../secret", "/dev/zero", "%s{0}{layer}", "x" * 100_000),
    *([], {}, [None], [[]], [1, 2, 3], [-1], ["x"], {"a": 1}, [0] * 10_000, {"": {"": None}}),
    *(_RAW + name for name in _RAW_TEXTS),
)


def mutate_bytes(data: bytes, random: Random, most: int = 4) -> bytes:
    """Flip, overwrite, cut, insert, repeat or move up to `most` runs of bytes."""
    mutated = bytearray(data)
    for _ in range(random.randint(1, most)):
        at = random.randrange(len(mutated) + 1)
        length = min(random.choice([1, 1, 2, 4, 8, 64]), len(mutated) - at)
        match random.randrange(7):
            case 0 if length:
                mutated[at] ^= 1 << random.randrange(8)
            case 1:
                mutated[at : at + length] = random.choice([b"\0", b"\xff", b"\x7f", b"\x80"]) * length
            case 2:
                del mutated[at:]
            case 3:
                del mutated[at : at + length]
            case 4:
                mutated[at:at] = random.randbytes(random.choice([1, 2, 8]))
            case 5:
                mutated[at:at] = mutated[at : at + length] * random.choice([1, 2, 100])
            case 6:
                other = random.randrange(len(mutated) + 1)
                mutated[at:at] = mutated[other : other + length]
    return bytes(mutated)


def mutate_json(document: Any, random: Random, fields: Mapping[str, Sequence[Any]] | None = None) -> bytes:
    """A JSON document with up to three changed values or keys; one in ten is damaged as bytes.

    Args:
        document: what `json.loads` returns.
        random: draws the changes.
        fields: fields that may be added to the outermost object, with the values that they may get besides `VALUES`.
    """
    changed = copy.deepcopy(document)
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        changed = _mutate(changed, random, fields or {})
    text = json.dumps(changed)
    for name, raw in _RAW_TEXTS.items():
        text = text.replace(json.dumps(_RAW + name), raw)
    text = text.replace(json.dumps(_RAW)[1:-1], "")  # what is left are the second of two equal keys
    data = text.encode()
    return mutate_bytes(data, random) if random.random() < 0.1 else data


def _mutate(document: Any, random: Random, fields: Mapping[str, Sequence[Any]]) -> Any:
    places = list(_places(document))
    if not places or random.random() < 0.01:
        return _value(random)
    container, key = random.choice(places)
    action = random.choices(
        ["replace", "adjust", "copy", "drop", "rename", "repeat", "add"], [40, 15, 10, 10, 5, 5, 25 if fields else 3]
    )[0]
    if action == "replace":
        container[key] = _value(random)
    elif action == "adjust":
        container[key] = _adjusted(container[key], random)
    elif action == "copy":
        other, from_key = random.choice(places)
        container[key] = copy.deepcopy(other[from_key])
    elif action == "drop":
        del container[key]
    elif action == "add" and isinstance(document, dict):
        name = random.choice([*fields, "novelty"])
        document[name] = copy.deepcopy(random.choice([*fields.get(name, ()), *random.choices(VALUES, k=2)]))
    elif isinstance(container, dict):
        value = container.pop(key) if action == "rename" else _value(random)
        container[random.choice(["", key.upper(), key + "s"]) if action == "rename" else _RAW + key] = value
    else:
        container.insert(key, _value(random))
    return document


def _value(random: Random) -> Any:
    return copy.deepcopy(random.choice(VALUES))  # a document is changed in place


def _places(value: Any) -> Any:
    """Every (container, key or index) of a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield value, key
        yield from _places(item)


def _adjusted(value: Any, random: Random) -> Any:
    """A value near `value`, of the same or a similar type."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int):
        near = (-value, value + 1, value - 1, 2 * value, value * 1000, value << 32, float(value), str(value), [value])
        return random.choice(near)
    if isinstance(value, float):
        return random.choice([-value, value * 1e300, value * 1e-300, 1 / (value or 1), str(value), [value]])
    if isinstance(value, str):
        return random.choice([value + "x", value[:-1], value.upper(), value * 3, [value], {value: value}])
    if isinstance(value, list):
        return random.choice([value * 2, value[:-1], value[::-1], [value], tuple(value)[:1]])
    return random.choice([[value], {}, dict(list(value.items())[:-1])])
