"""torch computes with no more threads than the default of the runtimes, and gets its own number back."""

from collections.abc import Iterator

import pytest
import torch

from edgekiln.calib import torch_threads
from edgekiln.calib.torch_threads import limited_torch_threads


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("before", "limit", "inside"), [(4, 1, 1), (4, 3, 3), (1, 3, 1), (2, 2, 2)])
def test_threads_inside_and_after(before: int, limit: int, inside: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(before)
    monkeypatch.setattr(torch_threads, "default_threads", lambda: limit)
    with limited_torch_threads():
        assert torch.get_num_threads() == inside
    assert torch.get_num_threads() == before


def test_a_build_has_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekiln.pipeline import build

    seen = []

    def lowering_of(*_: object) -> None:
        seen.append(torch.get_num_threads())
        raise ZeroDivisionError

    torch.set_num_threads(4)
    monkeypatch.setattr(torch_threads, "default_threads", lambda: 2)
    monkeypatch.setattr(build, "lowering_of", lowering_of)
    with pytest.raises(ZeroDivisionError):
        build.build_engine(None, None, None)  # type: ignore[arg-type]
    assert seen == [2]
    assert torch.get_num_threads() == 4
