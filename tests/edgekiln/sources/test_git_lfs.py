"""Git LFS pointers in place of a checkpoint's files are named, whichever file it is."""

from pathlib import Path

import pytest
from transformers import LlamaConfig

from edgekiln.errors import SourceError
from edgekiln.sources.json_file import read_json
from edgekiln.sources.safetensors import SafetensorsReader
from edgekiln.sources.tokenizer import load_tokenizer

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 134\n"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / name).write_text(POINTER)
    return tmp_path


def test_pointers_are_named(directory: Path) -> None:
    message = r"{}.json is a Git LFS pointer, not the file itself: run `git lfs pull`"
    with pytest.raises(SourceError, match=message.format("config")):
        read_json(directory / "config.json")
    with pytest.raises(SourceError, match=message.format("tokenizer")):
        load_tokenizer(directory, LlamaConfig(), {})
    with pytest.raises(SourceError, match=r"model.safetensors is a Git LFS pointer"):
        SafetensorsReader(directory)


def test_other_files_are_no_pointers(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"version": "https://git-lfs.github.com/spec/"}')
    assert read_json(tmp_path / "config.json") == {"version": "https://git-lfs.github.com/spec/"}
