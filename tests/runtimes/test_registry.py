"""Opening engines: at paths that are not UTF-8, and while another build replaces them."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from edgekiln import runtimes
from edgekiln.api import Engine
from edgekiln.engine.directory import ENGINE_FILE, atomic_directory, sha256
from edgekiln.engine.manifest import EngineManifest
from edgekiln.errors import EngineError
from edgekiln.runtimes.base import KernelsChoice
from edgekiln.runtimes.ort.cpu import OrtCpuRuntime
from edgekiln.runtimes.text.tokenizer import Tokenizer

IDS = np.arange(5)


@pytest.fixture
def engine(tiny_engine: Path, tmp_path: Path) -> Path:
    """A copy of the tiny engine, to be replaced."""
    return Path(shutil.copytree(tiny_engine, tmp_path / "engine"))


def replace(engine: Path) -> None:
    """Replace an engine as another build does; one file differs."""
    with atomic_directory(engine) as directory:
        shutil.copytree(engine, directory, dirs_exist_ok=True)
        report = directory / "report.json"
        report.write_text(report.read_text() + "\n")
        manifest = json.loads((directory / ENGINE_FILE).read_text())
        manifest["files"]["report.json"] = sha256(report)
        (directory / ENGINE_FILE).write_text(json.dumps(manifest))


def test_an_engine_at_a_path_that_is_not_utf8(tiny_engine: Path, tmp_path: Path, kernels: KernelsChoice) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    shutil.copytree(tiny_engine, odd / "engine")
    engine = Engine.open(odd / "engine", kernels=kernels)
    expected = Engine.open(tiny_engine, kernels=kernels)
    np.testing.assert_array_equal(engine.score(IDS), expected.score(IDS))
    assert engine.runtime.kernels == expected.runtime.kernels
    assert engine.tokenize("hello") == expected.tokenize("hello")


def test_what_was_loaded_keeps_running(engine: Path) -> None:
    opened = Engine.open(engine)
    answer = [token.id for token in opened.generate("hello", max_tokens=4, temperature=0)]
    scores = opened.score(IDS)
    replace(engine)
    assert [token.id for token in opened.generate("hello", max_tokens=4, temperature=0)] == answer
    np.testing.assert_array_equal(opened.score(IDS), scores)
    assert opened.tokenizer.has_chat_template


def test_a_graph_of_another_engine_is_not_used(engine: Path) -> None:
    opened = Engine.open(engine)
    replace(engine)
    for _ in range(2):
        with pytest.raises(EngineError, match="was replaced by another engine while it was in use: open it again"):
            opened.score(IDS)
    assert Engine.open(engine).score(IDS).shape[0] == len(IDS)


def test_an_engine_that_is_gone(engine: Path) -> None:
    opened = Engine.open(engine)
    shutil.rmtree(engine)
    with pytest.raises(EngineError):
        opened.score(IDS)


def test_the_manifest_is_of_the_engine_that_is_loaded(engine: Path) -> None:
    opened = Engine(engine)
    replace(engine)
    with pytest.raises(EngineError, match="was replaced by another engine"):
        _ = opened.runtime
    with pytest.raises(EngineError, match="was replaced by another engine"):
        _ = opened.tokenizer


@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize("when", ["before", "after"])
def test_an_engine_that_is_replaced_while_it_is_loaded(
    engine: Path, monkeypatch: pytest.MonkeyPatch, when: str, verify: bool
) -> None:
    load = OrtCpuRuntime.__init__

    def loading(self: OrtCpuRuntime, directory: Path, manifest: EngineManifest, **options: object) -> None:
        if when == "before":
            replace(directory)
        load(self, directory, manifest, **options)
        if when == "after":
            replace(directory)

    monkeypatch.setattr(OrtCpuRuntime, "__init__", loading)
    with pytest.raises(EngineError, match="was replaced by another engine while it was in use: open it again"):
        runtimes.open(engine, verify=verify)


def test_an_engine_that_is_replaced_while_it_is_hashed(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hashes do not fit then, but the engine is not damaged."""

    def verifying(directory: Path, *_: object) -> None:
        if directory not in replaced:
            replaced.append(directory)
            replace(directory)
        raise EngineError("damaged")

    replaced: list[Path] = []
    monkeypatch.setattr("edgekiln.runtimes.registry.verify_files", verifying)
    with pytest.raises(EngineError, match="was replaced by another engine"):
        runtimes.open(engine)


def test_a_tokenizer_of_another_engine_is_not_used(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, load = Engine(engine), Tokenizer.from_engine
    _ = opened.runtime

    def loading(directory: Path, manifest: EngineManifest) -> Tokenizer:
        replace(directory)
        return load(directory, manifest)

    monkeypatch.setattr(Tokenizer, "from_engine", loading)
    with pytest.raises(EngineError, match="was replaced by another engine"):
        _ = opened.tokenizer
