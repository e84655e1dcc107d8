"""engine.json is validated when it is read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgekiln.engine.directory import sha256
from edgekiln.engine.manifest import (
    Architecture,
    EngineManifest,
    KVCacheSpec,
    QuantizationRecipe,
    SamplingDefaults,
    SpecialTokens,
    read_manifest,
    write_manifest,
)
from edgekiln.errors import EngineError

FIELDS: dict[str, Any] = {
    "name": "tiny",
    "source": "somewhere/tiny",
    "target": "ort-cpu",
    "architecture": Architecture(
        model_type="llama",
        vocab_size=320,
        hidden_size=64,
        layers=2,
        heads=4,
        kv_heads=[2, 2],
        head_dims=[16, 16],
        max_length=256,
        parameters=1000,
    ),
    "graphs": {"generate": "generate.onnx"},
    "kv_cache": KVCacheSpec(layout="shared-buffer", dtype="float32"),
    "quantization": QuantizationRecipe(scheme="int4", group_size=32),
    "special_tokens": SpecialTokens(bos=1, eos=[2, 3]),
    "sampling": SamplingDefaults(temperature=0.6),
    "versions": {"edgekiln": "0"},
}


def fill(directory: Path, **fields: Any) -> EngineManifest:
    (directory / "generate.onnx").write_bytes(b"graph")
    (directory / "weights.bin").write_bytes(bytes(range(256)))
    return write_manifest(directory, **{**FIELDS, **fields})


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    directory = tmp_path / "engine"
    directory.mkdir()
    fill(directory)
    return directory


def edit(engine: Path, change: Callable[[dict[str, Any]], None]) -> None:
    raw = json.loads((engine / "engine.json").read_text())
    change(raw)
    (engine / "engine.json").write_text(json.dumps(raw))


def test_manifest_is_read_back_as_written(tmp_path: Path) -> None:
    written = fill(tmp_path)
    assert read_manifest(tmp_path) == written
    assert read_manifest(str(tmp_path)).files.keys() == {"generate.onnx", "weights.bin"}


def test_no_directory(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"no engine directory at .*/absent: build one with"):
        read_manifest(tmp_path / "absent")
    with pytest.raises(EngineError, match=r"has no engine\.json, so it is not an engine directory"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'"engine"', b"{}", b"\xff\xfe\x00", b'{"schema_version": 1', b"7", b"[" * 100000],
)
def test_damaged_json(engine: Path, content: bytes) -> None:
    (engine / "engine.json").write_bytes(content)
    with pytest.raises(EngineError, match=r"engine\.json is damaged"):
        read_manifest(engine)


@pytest.mark.parametrize("version", [4, 10**9])
def test_a_newer_schema(engine: Path, version: object) -> None:
    # The fields of a newer manifest are unknown: only its version is read.
    edit(engine, lambda raw: raw.update(schema_version=version, novelty=True))
    with pytest.raises(EngineError, match=r"has schema version .*, this edgekiln reads version 3: upgrade edgekiln"):
        read_manifest(engine)


@pytest.mark.parametrize("version", [2, 1, 0, -3])
def test_an_older_schema(engine: Path, version: int) -> None:
    edit(engine, lambda raw: raw.update(schema_version=version, kv=raw.pop("kv_cache")))
    sentence = f"has schema version {version}, this edgekiln reads version 3: build the engine again"
    with pytest.raises(EngineError, match=sentence):
        read_manifest(engine)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda raw: raw.pop("target"), "target"),
        (lambda raw: raw.update(extra=1), "extra"),
        (lambda raw: raw["architecture"].update(vocab_size=0), r"architecture\.vocab_size"),
        (lambda raw: raw["architecture"].update(kv_heads="many"), r"architecture\.kv_heads"),
        (lambda raw: raw["kv_cache"].update(layout="paper"), r"kv_cache\.layout"),
    ],
)
def test_a_field_that_does_not_fit_is_named(engine: Path, change: Callable[[dict[str, Any]], None], where: str) -> None:
    edit(engine, change)
    with pytest.raises(EngineError, match=rf"engine\.json is damaged: {where}: ") as caught:
        read_manifest(engine)
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_file(engine: Path) -> None:
    (engine / "weights.bin").unlink()
    with pytest.raises(EngineError, match=r"weights\.bin is missing from the engine"):
        read_manifest(engine, verify=False)


@pytest.mark.parametrize("content", [b"", bytes(256), bytes(range(256)) + b"\0"])
def test_an_edited_file(engine: Path, content: bytes) -> None:
    (engine / "weights.bin").write_bytes(content)
    with pytest.raises(EngineError, match=r"weights\.bin is damaged or was edited"):
        read_manifest(engine)
    assert read_manifest(engine, verify=False).name == "tiny"


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "sub/file", "..", ".", "", "sub/../weights.bin"])
def test_a_file_name_that_leaves_the_directory(engine: Path, name: str) -> None:
    secret = engine.parent / "secret"
    secret.write_text("key")
    (engine / "sub").mkdir()
    (engine / "sub" / "file").write_text("key")
    edit(engine, lambda raw: raw["files"].update({name: sha256(secret)}))
    with pytest.raises(EngineError, match="is missing from the engine"):
        read_manifest(engine)


@pytest.mark.parametrize("name", ["../secret", "other.onnx", "/etc/passwd"])
def test_a_graph_that_is_not_listed(engine: Path, name: str) -> None:
    (engine.parent / "secret").write_text("key")
    (engine / "other.onnx").write_bytes(b"graph")
    edit(engine, lambda raw: raw["graphs"].update(generate=name))
    with pytest.raises(EngineError, match=r"names .* as its generate graph but lists no such file"):
        read_manifest(engine)


@pytest.mark.parametrize("name", ["a\nb", "\x1b[31mred", "x" * 100_000])
def test_a_name_of_an_untrusted_file_fits_a_line(engine: Path, name: str) -> None:
    for change in (
        lambda raw: raw.update({name: 1}),
        lambda raw: raw["files"].update({name: "0"}),
        lambda raw: raw["graphs"].update({name: "other"}),
        lambda raw: raw["graphs"].update({"generate": name}),
        lambda raw: raw["kv_cache"].update(layout=name),
    ):
        good = (engine / "engine.json").read_bytes()
        edit(engine, change)
        with pytest.raises(EngineError) as caught:
            read_manifest(engine)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 500
        (engine / "engine.json").write_bytes(good)
