"""Fixtures of the fuzz tests, which are all slow."""

from pathlib import Path

import pytest

from support.fuzzing import Fuzzer


@pytest.fixture
def fuzzer(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Fuzzer:
    """Runs the cases of a test."""
    return Fuzzer(capfd, tmp_path)
