"""Weights and scales of a GGUF file that are not finite are named."""

from pathlib import Path

import gguf
import numpy as np
import pytest

from edgekiln.errors import SourceError
from edgekiln.pipeline.build import build_engine
from edgekiln.pipeline.options import BuildOptions
from edgekiln.sources.resolve import resolve
from support.gguf_files import llama_tensors, write

KIND = gguf.GGMLQuantizationType.Q4_0


def overwrite(path: Path, tensor: str, value: np.ndarray) -> None:
    """Write bytes over the beginning of a tensor."""
    offset = next(entry.data_offset for entry in gguf.GGUFReader(path).tensors if entry.name == tensor)
    with path.open("r+b") as file:
        file.seek(int(offset))
        file.write(value.tobytes())


@pytest.mark.parametrize("quant", ["none", "int4"])
@pytest.mark.parametrize(
    ("tensor", "value", "message"),
    [
        ("output_norm.weight", np.float32("nan"), r"output_norm\.weight with a value that is NaN or infinite"),
        ("blk.1.ffn_up.weight", np.float16("inf"), r"(mlp\.up_proj|blk\.1\.ffn_up)\.weight .*NaN or infinite"),
    ],
)
def test_a_value_that_is_not_finite(tmp_path: Path, tensor: str, value: np.ndarray, message: str, quant: str) -> None:
    tensors = {
        name: (gguf.quants.quantize(value, KIND), KIND) if value.ndim == 2 else value
        for name, value in llama_tensors()[1].items()
    }
    path = write(tmp_path / "m.gguf", "llama", tensors)
    overwrite(path, tensor, value)
    with pytest.raises(SourceError, match=message):
        build_engine(resolve(str(path)), tmp_path / "engine", BuildOptions(quant=quant))
    assert not (tmp_path / "engine").exists()
