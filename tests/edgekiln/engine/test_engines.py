"""Engines in a directory: listing them, and finding one by what a user types."""

import json
from pathlib import Path

import pytest

from edgekiln.engine.directory import ENGINE_FILE
from edgekiln.engine.engines import engines_in, entry_of, find_engine
from edgekiln.errors import EngineError


def engine(path: Path, name: str = "m", source: str = "owner/m") -> Path:
    path.mkdir(parents=True)
    (path / ENGINE_FILE).write_text(json.dumps({"name": name, "source": source}))
    return path


@pytest.fixture
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    engine(Path("engines/small-int8"), "small", "owner/Small@v2")
    engine(Path("engines/big-int8"), "big", "owner/big")
    engine(Path("engines/big-int4"), "big", "owner/big")
    engine(Path("engines/.hidden"), "hidden")
    Path("engines/notes").mkdir()
    return Path("engines")


@pytest.mark.parametrize("name", ["small", "small-int8", "owner/Small@v2", "engines/small-int8"])
def test_the_only_engine_of_a_name_is_found(engines: Path, name: str) -> None:
    assert find_engine(name) == engines / "small-int8"


@pytest.mark.parametrize("name", ["big", "owner/big"])
def test_several_engines_are_named(engines: Path, name: str) -> None:
    message = f"several engines in engines are of {name}: give big-int4 or big-int8"
    with pytest.raises(EngineError, match=message):
        find_engine(name)
    assert find_engine("big-int4") == engines / "big-int4"


@pytest.mark.usefixtures("engines")
def test_no_engine_names_those_that_there_are() -> None:
    with pytest.raises(EngineError, match="which has big-int4, big-int8 and small-int8: give one of them"):
        find_engine("large")
    with pytest.raises(EngineError, match="build one with `edgekiln engine large`"):
        find_engine("large", models=["large"])


def test_many_engines_are_counted(engines: Path) -> None:
    for number in range(9):
        engine(engines / f"x-{number}")
    with pytest.raises(EngineError, match=r"which has big-int4, big-int8, small-int8, x-0, x-1 and 7 more"):
        find_engine("large")


def test_a_path_is_not_searched_for(engines: Path) -> None:
    engine(Path("small"), "another")
    assert find_engine("small") == Path("small")
    assert find_engine("elsewhere/small") == Path("elsewhere/small")
    engine(engines / "big", "big")
    assert find_engine("big") == engines / "big"
    for given in ("engines", "engines/", "engines/smal"):
        with pytest.raises(EngineError, match=r"is no engine, engines has big, big-int4, big-int8 and"):
            find_engine(given)
    assert find_engine("engines/big/nothing") == Path("engines/big/nothing")
    Path("big-int8").mkdir()  # a checkpoint, for instance
    assert find_engine("big-int8") == engines / "big-int8"
    Path("other").mkdir()
    assert find_engine("other") == Path("other"), "its own error says that it is no engine"


@pytest.mark.usefixtures("engines")
def test_exact_names_only() -> None:
    assert find_engine("small-int8", exact=True) == Path("engines/small-int8")
    assert find_engine("owner/Small@v2", exact=True) == Path("owner/Small@v2")
    with pytest.raises(EngineError, match="give one of them"):
        find_engine("small", exact=True)


def test_without_engines_a_name_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_engine("small") == Path("small")


def test_hidden_directories_are_no_engines(engines: Path) -> None:
    assert [path.name for path in engines_in(engines)] == ["big-int4", "big-int8", "small-int8"]
    assert engines_in(engines / "small-int8") == [engines / "small-int8"]


def test_entry_of_an_engine(tiny_engine: Path) -> None:
    entry = entry_of(tiny_engine)
    assert (entry.model, entry.scheme, entry.target, entry.error) == ("tiny-llama", "int4", "ort-cpu", None)
    assert entry.size == sum(path.stat().st_size for path in tiny_engine.iterdir() if path.is_file())


def test_entry_of_a_damaged_engine(tmp_path: Path) -> None:
    entry = entry_of(engine(tmp_path / "old"))
    assert entry.model == "m"
    assert entry.scheme == "?"
    assert entry.error is not None
    (tmp_path / "old" / ENGINE_FILE).write_text("{")
    assert entry_of(tmp_path / "old").model == "?"
