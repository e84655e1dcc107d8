"""Models without their weights: a dry run of a model on the hub downloads its small files only."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgekiln.errors import SourceError
from edgekiln.progress import no_progress
from edgekiln.sources.outline import ShapesOnly, outline
from edgekiln.sources.resolve import resolve
from support.hub_server import HubServer, client_environment
from support.models import save_checkpoint
from support.multimodal import COMPOSITES, save_composite, tiny_composite

DRY_RUN = (sys.executable, "-m", "edgekiln", "engine", "--quant", "int4", "--dry-run", "--json")


def dry_run(home: Path, endpoint: str, model: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*DRY_RUN, str(model)],
        capture_output=True,
        text=True,
        env=client_environment(home, endpoint),
        timeout=120,
        check=False,
    )


def test_a_dry_run_of_a_model_on_the_hub_is_that_of_the_model_here(tmp_path: Path) -> None:
    model = tmp_path / "model"
    save_checkpoint(model, "qwen3", tie_word_embeddings=True)
    with HubServer({"org/model": model}) as hub:
        done = dry_run(tmp_path / "home", hub.endpoint, "org/model")
        assert done.returncode == 0, done.stderr
        assert not any(path.endswith(".safetensors") for path in hub.requests if "/resolve/" in path)
    there = json.loads(done.stdout)
    here = json.loads(dry_run(tmp_path / "home", "http://127.0.0.1:9", model).stdout)
    assert there["engine"] == "engines/model-int4"
    assert there.pop("download_bytes") > (model / "model.safetensors").stat().st_size
    assert here.pop("download_bytes") == 0
    # The peak of a model on the hub counts all of its files, those of one here its tensors.
    for facts in (there, here):
        facts.pop("peak_bytes")
    assert there == here


def test_models_with_other_parts_are_downloaded_first(tmp_path: Path) -> None:
    model = tmp_path / "model"
    text, fields = COMPOSITES["qwen2_vl"]
    save_composite(model, tiny_composite("qwen2_vl", text, **fields))
    with HubServer({"org/model": model}) as hub:
        done = dry_run(tmp_path / "home", hub.endpoint, "org/model")
    assert done.returncode == 2
    assert "download it first, with `edgekiln pull org/model`" in done.stderr


def test_shapes_without_a_checkpoint(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "llama", tie_word_embeddings=True)
    source = resolve(str(tmp_path))
    shapes = ShapesOnly(source.config, trust_remote_code=False, nbytes=5)
    names = sorted(source.weights.keys())
    assert sorted(shapes.keys()) == names
    assert [shapes.shape(name) for name in names] == [source.weights.shape(name) for name in names]
    assert shapes.prequantized(names[0]) is None
    assert names[0] in shapes
    with pytest.raises(SourceError, match="was not downloaded"):
        shapes.read(names[0])


def test_a_model_that_is_here_is_opened(tiny_checkpoint: Path) -> None:
    source, left = outline(str(tiny_checkpoint), False, no_progress)
    assert (source.name, left) == (tiny_checkpoint.name, 0)
    with pytest.raises(SourceError, match="no model 'no-such-model'"):
        outline("no-such-model", False, no_progress)
