"""Streamed texts in libedgekiln are those of Python, for every decoder that it has."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from support.cpp_host import program
from support.decoders import DECODERS, any_ids, tokenizer

NOT_IN_CPP = {name for name in DECODERS if name.startswith(("word piece", "bpe", "ctc", "replace a pattern"))}


@pytest.mark.parametrize("name", sorted(DECODERS.keys() - NOT_IN_CPP - {"fused too early"}))
def test_streamed_texts_are_those_of_python(name: str, tmp_path: Path) -> None:
    ours = tokenizer(name)
    fast = ours._tokenizer
    fast.save(str(tmp_path / "tokenizer.json"))
    process = subprocess.Popen([program("edgekiln_tokenize"), tmp_path / "tokenizer.json"], stdin=-1, stdout=-1)

    def ask(what: str, ids: list[int]) -> Any:
        assert process.stdin
        assert process.stdout
        process.stdin.write(f"{what} {' '.join(map(str, ids))}\n".encode())
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    @settings(deadline=None)
    @given(ids=any_ids(name))
    def compare(ids: list[int]) -> None:
        assert ask("decode", ids) == fast.decode(ids)
        for what, choice in (("stream", "hide"), ("show", "show")):
            stream = ours.stream(choice)  # type: ignore[arg-type]
            pieces = ask(what, ids)
            assert pieces == [*map(stream.push, ids), stream.flush()]
            assert "".join(pieces) == fast.decode(ids, skip_special_tokens=choice == "hide")

    compare()
    process.communicate(timeout=60)
    assert process.returncode == 0
