"""Fixtures of the tests of libedgekiln."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def long_engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine with a very large max_length."""
    from support.engines import LONG, build

    return build(tmp_path_factory.mktemp("long"), "llama", "int4", max_position_embeddings=LONG)
