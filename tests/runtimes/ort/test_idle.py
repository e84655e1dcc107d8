"""Threads of an engine between two runs."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgekiln import runtimes
from edgekiln.runtimes.base import KernelsChoice
from edgekiln.runtimes.threads import available_processors


@pytest.mark.slow
@pytest.mark.skipif(available_processors() < 2, reason="needs two processors")
@pytest.mark.parametrize("kernels", ["edgekiln", "onnxruntime"])
def test_an_idle_engine_takes_no_processor_time(real_engine: Callable[[str], Path], kernels: KernelsChoice) -> None:
    """Processor time of all threads: one that spins for ONNX Runtime's default of some 50 ms takes more."""
    runtime = runtimes.open(real_engine("int4"), threads=2, kernels=kernels)
    cache = runtime.new_cache()
    runtime.prefill(cache, 0, np.arange(3, 67))
    for token in range(3, 11):
        runtime.step(cache, np.array([token]))
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.02
