"""The memory that a build allocates depends on the largest weight, and is little more than its codes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from support.models import tiny_config, tiny_tokenizer

# Bytes of anonymous memory. Files that are mapped, as a checkpoint is, do not count: the kernel drops their pages where
# memory is short.
_ANONYMOUS = """
import sys, threading
from pathlib import Path

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))
"""
# Builds the engine and prints by how many bytes the anonymous memory grew, at most.
_SCRIPT = f"""{_ANONYMOUS}
from edgekiln.pipeline.assemble import assemble
from edgekiln.pipeline.options import BuildOptions
from edgekiln.progress import StepTimer
from edgekiln.sources.resolve import resolve

class Timer(StepTimer):
    before = peak = 0

    def step(self, name):
        if name == "quantize":
            self.before = anonymous()
        super().step(name)

def watch():
    while not done.wait(0.01):
        timer.peak = max(timer.peak, anonymous())

checkpoint, engine = map(Path, sys.argv[1:])
engine.mkdir()
source, timer, done = resolve(str(checkpoint)), Timer(), threading.Event()
watcher = threading.Thread(target=watch)
watcher.start()
assemble(source, engine, BuildOptions(quant="int4"), timer)
done.set()
watcher.join()
print(timer.peak - timer.before)
"""


def _growth(directory: Path, layers: int) -> int:
    """Bytes of anonymous memory that a build takes from the first weight on, with 26 million weights a layer."""
    directory.mkdir()
    config = tiny_config(
        "llama",
        hidden_size=1024,
        intermediate_size=7168,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=8,
    )
    checkpoint = directory / "checkpoint"
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(checkpoint)
    tiny_tokenizer().save_pretrained(checkpoint)
    # One arena of the allocator, so that memory that threads have freed counts less.
    environment = os.environ | {"MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-c", _SCRIPT, str(checkpoint), str(directory / "engine")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=600)
    return int(done.stdout.split()[-1])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_layers(tmp_path: Path) -> None:
    few, many = _growth(tmp_path / "few", 2), _growth(tmp_path / "many", 12)
    # 10 layers of 26 million weights: 150 MB of quantized weights, 520 MB of bfloat16, 1 GB of float32.
    assert many - few < 60e6
    assert many < 400e6


# Memory that a large weight takes beyond itself and its codes.
_ONE_WEIGHT = f"""{_ANONYMOUS}
import torch
from edgekiln.calib.formats.quantize import quantize
from edgekiln.calib.formats.scheme import Scheme

def watch():
    global peak
    while not done.wait(0.005):
        peak = max(peak, anonymous())

torch.set_num_threads(2)
weight = torch.randn(1 << 18).half().repeat(128).reshape(16384, 2048)
quantize(weight[:512], Scheme(4, 128, False, "none"))
peak, before, done = 0, anonymous(), threading.Event()
watcher = threading.Thread(target=watch)
watcher.start()
quantize(weight, Scheme(4, 128, False, "none"))
done.set()
watcher.join()
print(peak - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_weight_takes_little_beyond_its_codes() -> None:
    done = subprocess.run([sys.executable, "-c", _ONE_WEIGHT], capture_output=True, text=True, check=True, timeout=300)
    # 34 MB of codes; copies to float64 that are not reused would be 268 MB.
    assert int(done.stdout) < 110e6
