"""Calibration: synthetic data, data from files, and cleaning up after an interruption."""

import json
from pathlib import Path

import numpy as np
import pytest

from edgekiln import runtimes
from edgekiln.calib.data import disk_cache as cache
from edgekiln.calib.data.options import FEW_WINDOWS, MANY_WINDOWS, DataOptions
from edgekiln.calib.limits import Limits
from edgekiln.calib.presets import PRESETS
from edgekiln.errors import RequestError
from edgekiln.pipeline import calibration, synthetic_data
from edgekiln.pipeline.build import build_engine
from edgekiln.pipeline.options import BuildOptions
from edgekiln.pipeline.synthetic_data import synthetic_windows
from edgekiln.sources.base import ModelSource
from edgekiln.sources.resolve import resolve
from support.models import VOCABULARY, save_checkpoint

OPTIONS = DataOptions(samples=3, length=12)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    directory = tmp_path_factory.mktemp("calibration") / "tiny"
    save_checkpoint(directory, "llama", num_hidden_layers=1)
    return resolve(str(directory))


@pytest.fixture(autouse=True)
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path / "cache" / "edgekiln"


def silent(_step: str, _done: float) -> None:
    pass


def test_synthetic_data_is_generated_once(
    source: ModelSource, cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    windows = synthetic_windows(source, OPTIONS, lambda step, done: steps.append(step))
    assert windows.dtype == np.int64
    assert windows.shape == (3, 12)
    assert 0 <= windows.min() <= windows.max() < VOCABULARY
    assert len(np.unique(windows, axis=0)) == 3
    assert "preparing to write text" in steps
    assert [path.name for path in tmp_path.iterdir()] == ["cache"], "the temporary engine is deleted"

    monkeypatch.setattr(synthetic_data, "_generate_windows", None)
    np.testing.assert_array_equal(synthetic_windows(source, OPTIONS, silent), windows)
    (kept,) = cached.iterdir()
    kept.write_bytes(kept.read_bytes()[:40])
    with pytest.raises(TypeError):
        synthetic_windows(source, OPTIONS, silent)


def test_synthetic_data_depends_on_seed_and_model(source: ModelSource, cached: Path, tmp_path: Path) -> None:
    windows = synthetic_windows(source, OPTIONS, silent)
    (kept,) = cached.iterdir()
    kept.unlink()
    np.testing.assert_array_equal(synthetic_windows(source, OPTIONS, silent), windows)
    other = synthetic_windows(source, DataOptions(samples=3, length=12, seed=1), silent)
    assert not np.array_equal(other, windows)
    save_checkpoint(tmp_path / "model", "llama", num_hidden_layers=2)
    assert cache.fingerprint(resolve(str(tmp_path / "model"))) != cache.fingerprint(source)


def test_an_interruption_leaves_nothing(source: ModelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(synthetic_data, "_generate_windows", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build_engine(source, tmp_path / "out" / "engine", BuildOptions(data=OPTIONS))
    assert [path.name for path in tmp_path.rglob("*")] == ["out"]


def test_an_unwritable_disk_cache_is_ignored(
    source: ModelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert synthetic_windows(source, OPTIONS, silent).shape == (3, 12)


def test_poor_data_is_among_the_notes_and_limits_are_held(source: ModelSource, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(json.dumps({"text": f"{number} bottles of beer"}) for number in range(20)))
    choice = DataOptions(str(data), samples=8, length=24)
    build = BuildOptions(quant="int4", data=choice, limits=Limits(max_kl=1e6))
    manifest = build_engine(source, tmp_path / "engine", build)
    assert manifest.quantization.scheme == "int4"
    notes = json.loads((tmp_path / "engine" / "report.json").read_text())["notes"]
    assert any("192 tokens, few for good scales" in note for note in notes)
    assert any("0 of 7 layers are promoted" in note for note in notes)
    with pytest.raises(RequestError, match="with every layer promoted"):
        build_engine(source, tmp_path / "other", BuildOptions(quant="int4", data=choice, limits=Limits(max_kl=1e-30)))
    assert not (tmp_path / "other").exists()


def test_windows_are_no_longer_than_the_context(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "tiny", "llama", num_hidden_layers=1, max_position_embeddings=50)
    text = tmp_path / "text.txt"
    text.write_text("a kiln is an oven. " * 100)
    build = BuildOptions(quant="int8", data=DataOptions(str(text), samples=2), max_length=40)
    build_engine(resolve(str(tmp_path / "tiny")), tmp_path / "engine", build)
    assert np.isfinite(runtimes.open(tmp_path / "engine").score(np.arange(5))).all()


@pytest.mark.parametrize(
    ("data", "limits", "count"),
    [
        (DataOptions(length=8), Limits(), FEW_WINDOWS),
        (DataOptions(length=8, samples=5), Limits(), 5),
        (DataOptions(length=8), Limits(max_kl=0.1), MANY_WINDOWS),
    ],
)
def test_smoothing_alone_needs_few_windows(
    source: ModelSource, monkeypatch: pytest.MonkeyPatch, data: DataOptions, limits: Limits, count: int
) -> None:
    asked: list[int] = []

    def stop(source: ModelSource, options: DataOptions, progress: object) -> None:
        asked.append(options.count)
        raise KeyboardInterrupt

    monkeypatch.setattr(calibration, "synthetic_windows", stop)
    with pytest.raises(KeyboardInterrupt):
        calibration.calibrated(source, PRESETS["int8"], data, limits, silent)
    assert asked == [count]
