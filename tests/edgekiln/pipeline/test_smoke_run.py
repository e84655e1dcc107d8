"""A build ends with a run of the finished engine, and keeps nothing that does not run."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from edgekiln.engine.directory import CHAT_SEGMENTS_FILE
from edgekiln.engine.manifest import read_manifest
from edgekiln.errors import EdgekilnError, EngineError, SourceError
from edgekiln.pipeline import smoke_run
from edgekiln.pipeline.build import build_engine
from edgekiln.pipeline.options import BuildOptions
from edgekiln.sources.base import ModelSource
from edgekiln.sources.resolve import resolve
from edgekiln.targets import Target
from support.models import save_checkpoint


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    directory = tmp_path_factory.mktemp("checkpoint") / "tiny"
    save_checkpoint(directory, "llama", num_hidden_layers=1)
    return resolve(str(directory))


def build(source: ModelSource, output: Path, **options: Any) -> dict[str, Any]:
    """Build an engine whose files have the hashes of its manifest; its report."""
    build_engine(source, output, BuildOptions(**{"quant": "none", **options}))
    read_manifest(output)
    report: dict[str, Any] = json.loads((output / "report.json").read_text())
    return report


@pytest.fixture
def refused(tmp_path: Path) -> Callable[..., None]:
    """A function that builds what is refused; nothing is left of it, and no temporary name is in the message."""

    def refused(source: ModelSource, match: str, error: type[EdgekilnError] = EngineError, **options: Any) -> None:
        with pytest.raises(error, match=match) as caught:
            build(source, tmp_path / "out" / "engine", **options)
        assert "-tmp-" not in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1
        assert not (tmp_path / "out").exists() or os.listdir(tmp_path / "out") == []

    return refused


@pytest.mark.parametrize("options", [{"quant": "int4"}, {"max_length": 1}, {"max_length": 2}])
def test_the_report_says_that_the_engine_ran(source: ModelSource, tmp_path: Path, options: dict[str, Any]) -> None:
    report = build(source, tmp_path / "engine", **options)
    assert "smoke run" in report["steps"]
    assert not any("was not" in note for note in report["notes"])


def test_logits_that_are_not_finite(source: ModelSource, tmp_path: Path, refused: Callable[..., None]) -> None:
    checkpoint = tmp_path / "overflowing"
    save_checkpoint(checkpoint, "llama", num_hidden_layers=1)
    weights = load_file(checkpoint / "model.safetensors")
    weights["lm_head.weight"] = torch.full_like(weights["lm_head.weight"], 3e38)
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    refused(resolve(str(checkpoint)), "does not run and is not kept: its logits are NaN or infinite")


def test_an_engine_that_does_not_load(
    source: ModelSource, tmp_path: Path, refused: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def adapter(directory: Path, *_: object, **__: object) -> None:
        raise EngineError(f"the library cannot load {directory / 'generate.onnx'}: no")

    monkeypatch.setattr(Target, "load_adapter", lambda _: adapter)
    refused(source, f"does not run and is not kept: the library cannot load {tmp_path}/out/engine/generate.onnx: no")


def test_a_target_that_does_not_run_here(source: ModelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smoke_run.system, "detect", smoke_run.system.Machine)
    report = build(source, tmp_path / "engine", target="ort-cuda")
    assert any("the engine was not run after it was built: an NVIDIA GPU" in note for note in report["notes"])


def test_weights_that_memory_does_not_hold(
    source: ModelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smoke_run.psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    report = build(source, tmp_path / "engine")
    assert any("was not run after it was built: its weights of" in note for note in report["notes"])


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('give a system message first') }}",
        "{{ messages[0].content.parts[0].text }}",
        "{{ 1 / 0 }}",
        "{% if tools is none %}{{ raise_exception('no tools') }}{% endif %}",
    ],
)
def test_a_template_that_refuses_a_plain_message(source: ModelSource, tmp_path: Path, template: str) -> None:
    report = build(replace(source, chat_template=template), tmp_path / "engine")
    assert any("the chat template was not tried, because it refuses" in note for note in report["notes"])
    assert not (tmp_path / "engine" / CHAT_SEGMENTS_FILE).exists()


@pytest.mark.parametrize("template", ["{% if %}", "{{ x | no_such_filter }}", "{% for m in messages %}", "{{ 'open }}"])
@pytest.mark.parametrize("name", ["default", "tool_use"])
def test_a_template_that_does_not_compile(
    source: ModelSource, template: str, name: str, refused: Callable[..., None]
) -> None:
    templates = {"default": "{{ messages[0].content }}", name: template}
    sentence = r"the chat template of tiny is not valid Jinja \(line 1: .*\): correct it"
    refused(replace(source, chat_template=templates), sentence, SourceError)


@pytest.mark.parametrize("template", ["{{ 'x' * 30000000 }}", "{% for i in range(99999) %}{{ i }}{% endfor %}" * 99])
def test_a_template_without_bounds(source: ModelSource, template: str, refused: Callable[..., None]) -> None:
    refused(replace(source, chat_template=template), "the chat template", EdgekilnError)


def test_segments_that_differ_from_the_template(
    source: ModelSource, refused: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smoke_run.ChatSegments, "render", lambda *_: "something else")
    monkeypatch.setattr("edgekiln.pipeline.chat_segments._reproduces", lambda *_: True)
    refused(source, "does not give the text of the chat template")


def test_logits_are_checked_at_every_step() -> None:
    with pytest.raises(EngineError, match="its logits are NaN or infinite"):
        smoke_run._finite(np.array([0.0, np.inf], dtype=np.float32))
