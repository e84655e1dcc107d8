"""Mutated GGUF files: they are resolved and all of their tensors are read, or refused in one sentence."""

from pathlib import Path
from random import Random

import pytest

from edgekiln.sources.resolve import resolve
from support import gguf_files
from support.fuzzing import Fuzzer
from support.gguf_mutations import STRING, Pair, mutate, read

pytestmark = pytest.mark.slow


def write(path: Path) -> bytes:
    """Write a llama with a chat template, and return the file."""
    _, tensors = gguf_files.llama_tensors()
    data = gguf_files.write(path, "llama", tensors).read_bytes()
    header = read(data)
    assert header.write() == data
    template = b"{% for message in messages %}{{ message.content }}{% endfor %}"
    header.pairs.append(Pair(b"tokenizer.chat_template", STRING, template))
    path.write_bytes(header.write())
    return path.read_bytes()


def read_all(path: Path) -> None:
    weights = resolve(str(path)).weights
    for name in weights.keys():  # noqa: SIM118 - no mapping
        weights.read(name)


def test_headers(fuzzer: Fuzzer, tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    data = write(path)
    read_all(path)  # imports libraries, which takes seconds

    def case(random: Random) -> None:
        path.write_bytes(mutate(data, random))
        read_all(path)

    fuzzer.run(case)
