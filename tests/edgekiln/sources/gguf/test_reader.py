"""The GGUF reader against the gguf package, and against every way a file can be broken."""

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekiln.errors import EdgekilnError, SourceError
from edgekiln.sources.gguf.reader import GgufFile
from edgekiln.sources.resolve import resolve


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "some.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for value in (7, -3, 0.5, True, "naïve", [1, 2, 3], [0.5, 1.5], ["a", "", "▁b"] * 50):
        element = gguf.GGUFValueType.get_type(value[0]) if isinstance(value, list) else None
        writer.add_key_value(f"test.{value!s:.12}", value, gguf.GGUFValueType.get_type(value), element)
    generator = np.random.default_rng(0)
    for kind in (gguf.GGMLQuantizationType[name] for name in ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q8_0")):
        weights = generator.standard_normal((6, 64), dtype=np.float32)
        writer.add_tensor(f"{kind.name}.weight", gguf.quants.quantize(weights, kind), raw_dtype=kind)
    writer.add_tensor("vector", generator.standard_normal(5, dtype=np.float32))
    writer.add_tensor("experts", generator.standard_normal((3, 4, 8), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def image(path: Path) -> bytes:
    return path.read_bytes()


def test_reader_agrees_with_the_gguf_package(path: Path) -> None:
    ours, reference = GgufFile(path), gguf.GGUFReader(path)
    for key, field in reference.fields.items():
        if not key.startswith("GGUF."):
            assert ours.get(key) == field.contents(), key
    for tensor in reference.tensors:
        info = ours.tensors[tensor.name]
        assert (info.start, info.nbytes) == (tensor.data_offset, tensor.n_bytes)
        values = ours.read(tensor.name)
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, gguf.quants.dequantize(tensor.data, tensor.tensor_type))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a GGUF file"),
        (b"PK\x03\x04" + bytes(60), "is not a GGUF file"),
        (b"GGUF" + struct.pack("<I", 99) + bytes(60), "GGUF version 99"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 60), "truncated"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 62), "truncated"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<IIQ", 9, 8, 1 << 61), "truncated"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"\xff" + bytes(60), "not UTF-8"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<I", 77), "unknown metadata type 77"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "general.architecture"),
    ],
)
def test_garbage_is_one_sentence(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=message):
        resolve(str(path))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True))
def test_every_truncation_is_noticed(tmp_path: Path, image: bytes, share: float) -> None:
    # The writer pads the last tensor to the alignment; a file without all of this padding is complete.
    path = tmp_path / "cut.gguf"
    path.write_bytes(image[: int(share * (len(image) - 32))])
    with pytest.raises(SourceError, match=r"truncated|not a GGUF|cannot read"):
        GgufFile(path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_header_never_surprises(tmp_path: Path, image: bytes, data: st.DataObject) -> None:
    end = image.index(b"experts") + 50
    damaged = bytearray(image)
    for position, value in data.draw(st.lists(st.tuples(st.integers(4, end), st.integers(0, 255)), min_size=1)):
        damaged[position] = value
    path = tmp_path / "damaged.gguf"
    path.write_bytes(damaged)
    # Either it is refused with a reason, or every tensor lies inside the file.
    try:
        tensors = GgufFile(path).tensors
    except EdgekilnError:
        return
    for info in tensors.values():
        assert 0 < info.start <= info.start + info.nbytes <= len(damaged)


@pytest.mark.parametrize("key", ["", "a\nb", "\x00", "a" * 256])
def test_keys_that_are_no_names(tmp_path: Path, key: str) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, len(key)) + key.encode() + struct.pack("<IB", 0, 1))
    with pytest.raises(SourceError, match="is no name"):
        GgufFile(path)


def test_a_key_and_a_tensor_occur_once(tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    pair = struct.pack("<Q", 1) + b"k" + struct.pack("<IB", 0, 1)
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + 2 * pair)
    with pytest.raises(SourceError, match="the metadata key 'k' twice"):
        GgufFile(path)
    tensor = struct.pack("<Q", 1) + b"t" + struct.pack("<IQIQ", 1, 1, 0, 0)
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 2, 0) + 2 * tensor + bytes(64))
    with pytest.raises(SourceError, match="the tensor 't' twice"):
        GgufFile(path)


@pytest.mark.parametrize("alignment", [0, 3, 48, 2**31 + 1])
def test_alignment_is_a_power_of_two(tmp_path: Path, alignment: int) -> None:
    path, key = tmp_path / "bad.gguf", b"general.alignment"
    pair = struct.pack("<Q", len(key)) + key + struct.pack("<II", 4, alignment)
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + pair + bytes(64))
    with pytest.raises(SourceError, match=f"general.alignment is {alignment}, it must be a power of two"):
        GgufFile(path)


def test_other_versions_are_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(b"GGUF" + struct.pack(">IQQ", 3, 0, 0))
    with pytest.raises(SourceError, match="is big-endian"):
        GgufFile(path)
    path.write_bytes(b"GGUF" + struct.pack("<III", 1, 0, 0) + bytes(8))
    with pytest.raises(SourceError, match=r"GGUF version 1, edgekiln reads 2 and 3"):
        GgufFile(path)
