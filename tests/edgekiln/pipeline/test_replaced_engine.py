"""Which engines a build may replace."""

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from edgekiln.engine.directory import ENGINE_FILE, check_output
from edgekiln.errors import EngineError
from edgekiln.pipeline.replaced_engine import may_replace


def engine(directory: Path, source: str, **fields: Any) -> Path:
    directory.mkdir(parents=True)
    (directory / "generate.onnx").write_text("graph")
    (directory / ENGINE_FILE).write_text(json.dumps({"source": source, "files": {"generate.onnx": ""}, **fields}))
    return directory


def test_packed_weights_are_of_the_engine(tmp_path: Path) -> None:
    directory = engine(tmp_path / "engine", "model")
    packed = directory / "packed-weights"
    packed.mkdir()
    for name in ("0123456789abcdef.avx2.packed", "verified"):
        (packed / name).write_text("x")
    replaceable(directory, "model")
    (packed / "notes.txt").write_text("the user's")
    with pytest.raises(EngineError, match="has packed-weights, which is no file of an engine"):
        replaceable(directory, "model")


def replaceable(output: Path, model_id: str, force: bool = False) -> None:
    check_output(output, partial(may_replace, output, model_id=model_id, force=force))


def test_the_same_model_under_its_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "link").symlink_to("model")
    monkeypatch.chdir(tmp_path)
    for i, (one, other) in enumerate(
        [
            ("smollm2-135m", "smollm2-135m"),
            ("model", str(tmp_path / "model")),
            ("model/", "link/../model"),
            (str(tmp_path / "link"), "model"),
            ("owner/name", "owner/name@v2"),
            ("/gone/model", "/gone/model"),
        ]
    ):
        replaceable(engine(tmp_path / f"engine{i}", one), other)
        replaceable(engine(tmp_path / f"other{i}", other), one)


@pytest.mark.parametrize(("one", "other"), [("a/model", "b/model"), ("smollm2-135m", "owner/smollm2-135m"), ("", "m")])
def test_another_model_needs_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one: str, other: str) -> None:
    monkeypatch.chdir(tmp_path)
    for each in ("a/model", "b/model"):
        (tmp_path / each).mkdir(parents=True)
    output = engine(tmp_path / "engine", one)
    with pytest.raises(
        EngineError, match=rf"is an engine of {one}: choose another output .* or replace it with --force"
    ):
        replaceable(output, other)
    replaceable(output, other, force=True)


@pytest.mark.parametrize("content", ["", "[]", "{", "null", '{"source": 3}', "[" * 100_000, "\udcff"])
def test_a_damaged_engine_needs_force(tmp_path: Path, content: str) -> None:
    output = engine(tmp_path / "engine", "m")
    (output / ENGINE_FILE).write_bytes(os.fsencode(content))
    with pytest.raises(EngineError, match=r"whose engine\.json cannot be read: .*--force"):
        replaceable(output, "m")
    replaceable(output, "m", force=True)


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("name", ["thesis.txt", "notes.json", ".git", "model", "generate.onnx.bak"])
def test_files_of_the_user_are_kept(tmp_path: Path, name: str, force: bool) -> None:
    output = engine(tmp_path / "engine", "m")
    (output / ".DS_Store").write_text("")
    replaceable(output, "m")
    if name in (".git", "model"):
        (output / name).mkdir()
    else:
        (output / name).write_text("mine")
    with pytest.raises(EngineError, match=f"has {name}, which is no file of an engine: move it away"):
        replaceable(output, "m", force)
    assert (output / name).exists()


def test_without_a_list_of_files_names_count(tmp_path: Path) -> None:
    output = engine(tmp_path / "engine", "m", files=None)
    replaceable(output, "m")
    (output / "thesis.txt").write_text("mine")
    with pytest.raises(EngineError, match=r"has thesis\.txt"):
        replaceable(output, "m", force=True)


def test_what_is_no_engine_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    for force in (False, True):
        with pytest.raises(EngineError, match="is not an engine directory"):
            replaceable(tmp_path, "m", force)
