"""Mutated GGUF files: the fields of the header are changed one by one, and the file is written again.

The layout is that of ggml's docs/gguf.md: magic, version, number of tensors, number of metadata pairs, the pairs, the
tensors' names, shapes, types and offsets, and the data from the next multiple of general.alignment on.
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from support.mutations import mutate_bytes

_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, _ARRAY = 8, 9
_SIZES = (0, 1, 2, 31, 33, 2**16, 2**31, 2**32 - 1, 2**32, 2**40, 2**63, 2**64 - 1)
_KEYS = ("general.architecture", "general.alignment", "general.file_type", "split.count", "novelty", "", "a" * 70000)
_ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "gpt2", "mamba", "bert", "t5", "clip", "x", "")


@dataclass
class Pair:
    """A metadata pair; of an array, `element` is the type of its elements and `value` the list."""

    key: bytes
    type: int
    value: Any
    element: int = 0
    size: int | None = None  # written in place of the length of a string or array


@dataclass
class Tensor:
    """The description of a tensor."""

    name: bytes
    shape: list[int]
    type: int
    offset: int


@dataclass
class Header:
    """The header of a file, and the data behind it."""

    version: int
    pairs: list[Pair]
    tensors: list[Tensor]
    data: bytes
    counts: tuple[int, int] | None = None  # written in place of the numbers of tensors and pairs

    def write(self) -> bytes:
        counts = self.counts or (len(self.tensors), len(self.pairs))
        parts = [b"GGUF", struct.pack("<IQQ", self.version, *counts)]
        for pair in self.pairs:
            parts += [_string(pair.key), struct.pack("<I", pair.type), _value(pair)]
        for tensor in self.tensors:
            dimensions = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *(n % 2**64 for n in tensor.shape))
            parts += [_string(tensor.name), dimensions, struct.pack("<IQ", tensor.type, tensor.offset % 2**64)]
        header = b"".join(parts)
        return header + bytes(-len(header) % 32) + self.data


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 4

    def take(self, format_: str) -> Any:
        values = struct.unpack_from("<" + format_, self.data, self.at)
        self.at += struct.calcsize("<" + format_)
        return values[0]

    def string(self) -> bytes:
        length = self.take("Q")
        self.at += length
        return self.data[self.at - length : self.at]

    def pair(self) -> Pair:
        key, type_ = self.string(), self.take("I")
        if type_ == _ARRAY:
            element, size = self.take("I"), self.take("Q")
            return Pair(key, type_, [self.item(element) for _ in range(size)], element)
        return Pair(key, type_, self.item(type_))

    def item(self, type_: int) -> Any:
        return self.string() if type_ == STRING else self.take(_FORMATS[type_])

    def tensor(self) -> Tensor:
        name = self.string()
        shape = [self.take("Q") for _ in range(self.take("I"))]
        return Tensor(name, shape, self.take("I"), self.take("Q"))


def read(data: bytes) -> Header:
    """The header of an undamaged file without nested arrays."""
    reader = _Reader(data)
    version, tensors, pairs = reader.take("I"), reader.take("Q"), reader.take("Q")
    pairs = [reader.pair() for _ in range(pairs)]
    tensors = [reader.tensor() for _ in range(tensors)]
    return Header(version, pairs, tensors, data[reader.at + -reader.at % 32 :])


def mutate(data: bytes, random: Random) -> bytes:
    """A file with up to three changed fields; one in six is damaged as bytes in its header instead."""
    header = read(data)
    if random.random() < 0.15:
        size = len(data) - len(header.data)
        return mutate_bytes(data[:size], random) + data[size:]
    for _ in range(random.choice([1, 1, 2, 3])):
        random.choices((_change_pair, _change_tensor, _change_file), (6, 3, 1))[0](header, random)
    written = header.write()
    return written[: random.randrange(len(written))] if random.random() < 0.03 else written


def _change_file(header: Header, random: Random) -> None:
    match random.randrange(4):
        case 0:
            header.version = random.choice([0, 1, 2, 4, 2**32 - 1, 3 << 24])
        case 1:
            header.counts = random.choice(_SIZES), len(header.pairs)
        case 2:
            header.counts = len(header.tensors), random.choice(_SIZES)
        case 3:
            header.data = header.data[: random.randrange(len(header.data))]


def _change_pair(header: Header, random: Random) -> None:
    pair = random.choice(header.pairs)
    match random.randrange(8):
        case 0:
            header.pairs.remove(pair)
        case 1:
            pair.key = random.choice([*_KEYS, pair.key.decode() + "s"]).encode()
        case 2:
            pair.key = pair.key[:-1] + bytes([random.randrange(256)])
        case 3:
            header.pairs.append(Pair(pair.key, *_random_value(random)))
        case 4:
            pair.type = random.choice([*range(14), 2**31])
            pair.element = random.choice([*range(14), 2**31])
        case 5:
            pair.size = random.choice(_SIZES)
        case 6:
            pair.type, pair.value = _random_value(random)
            pair.element = random.choice([4, 6, STRING])
        case 7 if pair.key == b"general.architecture":
            pair.value = random.choice(_ARCHITECTURES).encode()
        case _:
            pair.value = _near(pair.value, random)


def _change_tensor(header: Header, random: Random) -> None:
    tensor = random.choice(header.tensors)
    match random.randrange(7):
        case 0:
            header.tensors.remove(tensor)
        case 1:
            tensor.name = random.choice([b"", tensor.name + b"x", random.choice(header.tensors).name, b"\xff\xfe"])
        case 2:
            tensor.shape = random.choice([[], [0], tensor.shape[::-1], [*tensor.shape, 1], [*tensor.shape, 0] * 40])
        case 3 if tensor.shape:
            tensor.shape[random.randrange(len(tensor.shape))] = random.choice(_SIZES)
        case 4:
            tensor.type = random.choice([*range(45), 255, 2**32 - 1])
        case 5:
            tensor.offset = random.choice([*_SIZES, tensor.offset + 1, tensor.offset + 32, len(header.data)])
        case _:
            header.tensors.append(Tensor(b"blk.9.x.weight", [32], random.choice([0, 1, 2, 8]), 0))


def _random_value(random: Random) -> tuple[int, Any]:
    values: Sequence[tuple[int, Any]] = (
        *((4, n) for n in (0, 1, 3, 64, 2**16, 2**31, 2**32 - 1)),
        *((5, n) for n in (-1, -(2**31))),
        *((6, x) for x in (0.0, -1.0, 1e-30, float("nan"), float("inf"))),
        *((STRING, text) for text in (b"", b"llama", b"\xff\x80", b"x" * 100_000, b"{{ 1 }}", b"\0")),
        *((7, True), (11, -1), (12, 1e300), (10, 2**64 - 1), (_ARRAY, []), (_ARRAY, [1, 2, 3]), (_ARRAY, [b"a"])),
    )
    return random.choice(values)


def _near(value: Any, random: Random) -> Any:
    if isinstance(value, list):
        items = list(value)
        if not items:
            return items
        at = random.randrange(len(items))
        changes = (items[:at], items + items, [*items[:at], _near(items[at], random), *items[at + 1 :]], items[::-1])
        return random.choice(changes)
    if isinstance(value, bytes):
        return random.choice([b"", value[:-1], value + b"x", value * 1000, b"\xff" + value])
    if isinstance(value, bool):
        return not value
    if isinstance(value, float):
        return random.choice([0.0, -value, float("nan"), float("inf"), value * 1e30])
    return random.choice([0, 1, value + 1, value - 1, 2 * value, value * 1000, -value, 2**31 - 1, 2**40])


def _string(text: bytes, size: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if size is None else size) + text


def _value(pair: Pair) -> bytes:
    if pair.type != _ARRAY:
        return _item(pair.type, pair.value, pair.size)
    items = pair.value if isinstance(pair.value, list) else [pair.value]
    size = len(items) if pair.size is None else pair.size
    head = struct.pack("<IQ", pair.element, size)
    return head + b"".join(_item(pair.element, item, None) for item in items)


def _item(type_: int, value: Any, size: int | None) -> bytes:
    """A value in the format of a type, also if it does not fit: then as many low bits of it as there is room for."""
    if isinstance(value, list):
        value = value[0] if value else 0
    if type_ == STRING:
        return _string(value if isinstance(value, bytes) else str(value).encode(), size)
    if isinstance(value, bytes):
        value = len(value)
    format_ = _FORMATS.get(type_, "I")
    if format_ in "fd":
        return struct.pack("<" + format_, max(-1e38, min(value, 1e38)) if abs(value) < float("inf") else value)
    if format_ == "?":
        return struct.pack("<?", value)
    whole = int(value) if math.isfinite(value) else 0
    return (whole % 2**64).to_bytes(8, "little")[: struct.calcsize("<" + format_)]
