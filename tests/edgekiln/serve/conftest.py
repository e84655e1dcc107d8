"""One tiny engine for all servers, and one server for the tests of a module."""

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from support.engines import build
from support.serving import RunningServer, running_server


@pytest.fixture(scope="session")
def long_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random llama with room for long answers."""
    return build(tmp_path_factory.mktemp("serve"), "llama", "int4", max_position_embeddings=4096)


@pytest.fixture(scope="module")
def server(long_llama: Path) -> Iterator[RunningServer]:
    """A server of one engine, named tiny."""
    with running_server(("tiny", long_llama)) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: RunningServer) -> openai.OpenAI:
    """OpenAI's client of `server`."""
    return server.client()
