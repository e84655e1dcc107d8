"""The weights file: onnx reads back the values that were written."""

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper

from edgekiln.export.passes.common.tensors import set_lazily
from edgekiln.export.weights_file import WeightsFile, save_graph
from support.graphs import graph, node

RNG = np.random.default_rng(0)
PAGE = 4096


def model(**weights: np.ndarray) -> ir.Model:
    """A graph that reads every weight."""
    nodes = [node("Identity", [name], f"{name}.out") for name in weights]
    return graph(nodes, {}, {f"{name}.out": array.shape for name, array in weights.items()}, weights)


def write(directory: Path, **models: ir.Model) -> None:
    with WeightsFile(directory, "weights.bin") as weights:
        for m in models.values():
            weights.store(m)
    for name, m in models.items():
        save_graph(m, directory / f"{name}.onnx")


def external(path: Path) -> dict[str, tuple[int, int]]:
    """Offset and length of each tensor outside the graph file."""
    found = {}
    for tensor in onnx.load(path, load_external_data=False).graph.initializer:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if entries:
            assert entries["location"] == "weights.bin"
            found[tensor.name] = (int(entries["offset"]), int(entries["length"]))
    return found


def test_onnx_reads_the_same_values(tmp_path: Path) -> None:
    arrays = {
        "floats": RNG.standard_normal((33, 17), dtype=np.float32),
        "codes": RNG.integers(0, 256, (50, 41), dtype=np.uint8),
        "signed": RNG.integers(-128, 128, (50, 41), dtype=np.int8),
        "transposed": RNG.standard_normal((40, 30), dtype=np.float32).T,
        "small": np.arange(4, dtype=np.int64),
        "scalar": np.array(3.5, dtype=np.float32),
        "empty": np.zeros((0, 3), dtype=np.float32),
    }
    write(tmp_path, graph=model(**arrays))
    read = {t.name: numpy_helper.to_array(t) for t in onnx.load(tmp_path / "graph.onnx").graph.initializer}
    assert read.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array)
        assert (read[name].dtype, read[name].shape) == (array.dtype, array.shape)
    assert external(tmp_path / "graph.onnx").keys() == {"floats", "codes", "signed", "transposed"}


def test_bfloat16(tmp_path: Path) -> None:
    array = RNG.standard_normal((64, 16)).astype(ml_dtypes.bfloat16)
    tensor = helper.make_tensor("w", onnx.TensorProto.BFLOAT16, array.shape, array.tobytes(), raw=True)
    proto = helper.make_graph([], "test", [], [], [tensor])
    m = ir.from_proto(helper.make_model(proto, opset_imports=[helper.make_opsetid("", 23)]))
    write(tmp_path, graph=m)
    (read,) = onnx.load(tmp_path / "graph.onnx").graph.initializer
    assert read.data_type == onnx.TensorProto.BFLOAT16
    assert read.raw_data == array.tobytes()
    assert external(tmp_path / "graph.onnx") == {"w": (0, array.nbytes)}


def test_int4_is_packed(tmp_path: Path) -> None:
    array = RNG.integers(-8, 8, (65, 33)).astype(ml_dtypes.int4)
    m = ir.Model(ir.Graph([], [], nodes=[], initializers=[], opset_imports={"": 23}), ir_version=11)
    value = ir.Value(name="w")
    set_lazily(value, array.shape, ir.DataType.INT4, lambda: array)
    m.graph.initializers.add(value)
    write(tmp_path, graph=m)
    ((_, length),) = external(tmp_path / "graph.onnx").values()
    assert length == (array.size + 1) // 2
    (read,) = onnx.load(tmp_path / "graph.onnx").graph.initializer
    np.testing.assert_array_equal(numpy_helper.to_array(read).astype(np.int8), array.astype(np.int8))


def test_tensors_start_at_pages_in_order(tmp_path: Path) -> None:
    write(tmp_path, graph=model(**{f"w{i}": RNG.standard_normal(300 + 100 * i).astype(np.float32) for i in range(4)}))
    places = external(tmp_path / "graph.onnx")
    assert len(places) == 4
    end = 0
    for offset, length in sorted(places.values()):
        assert offset % PAGE == 0
        assert end <= offset < end + PAGE
        end = offset + length
    assert (tmp_path / "weights.bin").stat().st_size == end


def test_equal_bytes_are_stored_once(tmp_path: Path) -> None:
    array = RNG.integers(0, 256, (64, 64), dtype=np.uint8)
    other = array.copy()
    other[-1, -1] ^= 1
    first = model(a=array, b=array.reshape(64, 2, 32), c=other, d=array.view(np.int8))
    second = model(e=array, f=other.reshape(-1))
    write(tmp_path, first=first, second=second)
    places = external(tmp_path / "first.onnx") | external(tmp_path / "second.onnx")
    assert places["a"] == places["b"] == places["d"] == places["e"]
    assert places["c"] == places["f"] != places["a"]
    assert (tmp_path / "weights.bin").stat().st_size == 2 * PAGE
    read = {t.name: numpy_helper.to_array(t) for t in onnx.load(tmp_path / "second.onnx").graph.initializer}
    np.testing.assert_array_equal(read["e"], array)


def test_values_are_computed_once_and_not_kept(tmp_path: Path) -> None:
    m = model(w=np.zeros((100, 100), np.float32))
    calls: list[int] = []

    def make() -> np.ndarray:
        calls.append(1)
        return np.ones((100, 100), np.float32)

    set_lazily(m.graph.initializers["w"], (100, 100), ir.DataType.FLOAT, make)
    with WeightsFile(tmp_path, "weights.bin") as weights:
        weights.store(m)
        weights.store(m)  # as for the scoring graph, which has the same weights
    assert len(calls) == 1
    assert isinstance(m.graph.initializers["w"].const_value, ir.ExternalTensor)
    save_graph(m, tmp_path / "graph.onnx")
    (read,) = onnx.load(tmp_path / "graph.onnx").graph.initializer
    np.testing.assert_array_equal(numpy_helper.to_array(read), np.ones((100, 100), np.float32))
