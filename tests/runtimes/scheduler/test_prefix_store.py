"""Prefixes on disk: a server that starts again takes them over, and files may be deleted or damaged at any time."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgekiln import runtimes
from edgekiln.engine.manifest import read_manifest
from edgekiln.errors import RequestError
from edgekiln.runtimes.base import Runtime
from edgekiln.runtimes.generate.generate import generate
from edgekiln.runtimes.generate.options import GenerateOptions
from edgekiln.runtimes.scheduler.options import SchedulerOptions
from edgekiln.runtimes.scheduler.prefix_store import PrefixStore
from edgekiln.runtimes.scheduler.scheduler import Scheduler
from edgekiln.runtimes.text.tokenizer import Tokenizer
from support.engines import build
from support.hybrid_engine import HYBRID, HybridDecoder, write_engine
from support.requests import Client

OPTIONS = GenerateOptions(6, ignore_eos=True)
SYSTEM = np.arange(10, 80)
PROMPTS = [np.concatenate([SYSTEM, np.arange(100, 130) + 7 * index]) for index in range(3)]


def _windows(directory: Path) -> Path:
    config = {"sliding_window": 16, "max_position_embeddings": 2200}
    return build(directory, "gemma3_text", "none", "float32", **config)


ENGINES: dict[str, Callable[[Path], Path]] = {
    "states": lambda directory: write_engine(directory / "engine", HybridDecoder.random(HYBRID)),
    "windows": _windows,
}


@pytest.fixture(params=["attention", *ENGINES])
def opened(request: pytest.FixtureRequest, engine: Path, tmp_path: Path) -> tuple[Runtime, Tokenizer]:
    path = ENGINES[request.param](tmp_path) if request.param in ENGINES else engine
    return runtimes.open(path, threads=1), Tokenizer.from_engine(path, read_manifest(path))


def serve(opened: tuple[Runtime, Tokenizer], directory: Path, prompts: list[np.ndarray], size: int = 1 << 30) -> int:
    """Answers of a new scheduler are those of `generate`; gives how many tokens were taken over."""
    runtime, tokenizer = opened
    options = SchedulerOptions(slots=2, prefix_cache=directory, prefix_cache_size=size)
    scheduler = Scheduler(runtime, tokenizer, options)
    for prompt in prompts:
        expected = [token.id for token in generate(runtime, tokenizer, [prompt], OPTIONS)]
        assert Client(scheduler, prompt, OPTIONS).answer() == expected
    scheduler.close()
    return scheduler.stats().cached_tokens


def test_prefixes_outlive_the_scheduler(opened: tuple[Runtime, Tokenizer], tmp_path: Path) -> None:
    directory = tmp_path / "prefixes"
    has_states = bool(opened[0].properties.states)
    first = serve(opened, directory, PROMPTS[:1])
    assert first == 0
    assert not list(directory.iterdir())
    # Several prompts begin alike. A state can be taken over where a snapshot is: at the end of a prompt.
    longer = [PROMPTS[0][:90], PROMPTS[0]] if has_states else PROMPTS[:2]
    assert serve(opened, directory, longer) > 60
    (file,) = directory.iterdir()
    assert serve(opened, directory, PROMPTS[:1] if has_states else PROMPTS[2:]) > 60
    assert [file] == list(directory.iterdir())
    file.write_bytes(file.read_bytes()[:-3])
    assert serve(opened, directory, PROMPTS[2:]) == 0
    file.unlink()
    assert serve(opened, directory, PROMPTS[2:]) == 0


def test_files_are_deleted_while_a_scheduler_runs(engine: Path, tmp_path: Path) -> None:
    runtime, tokenizer = runtimes.open(engine, threads=1), Tokenizer.from_engine(engine, read_manifest(engine))
    serve((runtime, tokenizer), tmp_path, PROMPTS[:2])
    scheduler = Scheduler(runtime, tokenizer, SchedulerOptions(slots=1, prefix_cache=tmp_path))
    for file in tmp_path.iterdir():
        file.unlink()
    client = Client(scheduler, PROMPTS[2], OPTIONS)
    assert client.answer() == [token.id for token in generate(runtime, tokenizer, [PROMPTS[2]], OPTIONS)]
    assert client.ticket.cached_tokens == 0
    scheduler.close()


def test_the_size_is_bounded(engine: Path, tmp_path: Path) -> None:
    opened = runtimes.open(engine, threads=1), Tokenizer.from_engine(engine, read_manifest(engine))
    others = [np.concatenate([np.arange(150, 210), np.arange(20, 40) + index]) for index in range(2)]
    serve(opened, tmp_path, PROMPTS[:2])
    (first,) = tmp_path.iterdir()
    serve(opened, tmp_path, others, size=int(1.5 * first.stat().st_size))
    (second,) = tmp_path.iterdir()
    assert second != first
    serve(opened, tmp_path / "small", PROMPTS[:2], size=1000)
    assert not list((tmp_path / "small").iterdir())


def test_prefixes_of_other_kernels_are_left_alone(engine: Path, tmp_path: Path) -> None:
    opened = runtimes.open(engine, threads=1), Tokenizer.from_engine(engine, read_manifest(engine))
    serve(opened, tmp_path, PROMPTS[:2])
    assert len(PrefixStore(tmp_path, opened[0].sequence_key, 1 << 30)._entries) == 1
    assert not PrefixStore(tmp_path, "other", 1 << 30)._entries


def test_a_directory_that_cannot_be_made(engine: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    runtime, tokenizer = runtimes.open(engine, threads=1), Tokenizer.from_engine(engine, read_manifest(engine))
    with pytest.raises(RequestError, match=r"cannot make the directory .*file"):
        Scheduler(runtime, tokenizer, SchedulerOptions(prefix_cache=tmp_path / "file"))
