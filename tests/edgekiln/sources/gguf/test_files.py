"""GGUF files in parts, folders of them, Git LFS pointers, files that are no model, and types of tensors."""

import functools
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from edgekiln.errors import EdgekilnError, SourceError, UnsupportedModelError
from edgekiln.sources.gguf.reader import GgufFile
from edgekiln.sources.gguf.sampling import sampling_defaults
from edgekiln.sources.resolve import resolve
from support import gguf_files
from support.gguf_files import HIDDEN, VOCAB, llama_tensors, random, write

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 134\n"


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    writer = functools.partial(gguf.GGUFWriter, split_max_tensors=8)
    monkeypatch.setattr(gguf_files.gguf, "GGUFWriter", writer)
    write(tmp_path / "tiny.gguf", "llama", llama_tensors()[1])
    return sorted(tmp_path.iterdir())


def test_any_part_opens_all(parts: list[Path]) -> None:
    assert [path.name for path in parts] == [f"tiny-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    for path in parts:
        source = resolve(str(path))
        assert source.name == "tiny"
        for name, weight in llama_tensors()[0].items():
            np.testing.assert_array_equal(source.weights.read(name).numpy(), weight)


def test_parts_that_do_not_belong_together(parts: list[Path], tmp_path: Path) -> None:
    parts[2].unlink()
    with pytest.raises(SourceError, match=r"tiny-00003-of-00003.gguf is missing"):
        resolve(str(parts[0]))
    shutil.copy(parts[1], parts[2])
    with pytest.raises(SourceError, match=r"00003-of-00003.gguf says that it is another part"):
        resolve(str(parts[0]))
    renamed = parts[0].rename(tmp_path / "model.gguf")
    with pytest.raises(SourceError, match="a part of a GGUF file in 3 parts, but its name"):
        resolve(str(renamed))


def test_a_folder_of_one_model_opens_it(parts: list[Path], tmp_path: Path) -> None:
    found = resolve(str(tmp_path))
    assert found.name == "tiny"
    assert set(found.weights.keys()) == set(llama_tensors()[0])
    for path in parts:
        path.unlink()
    with pytest.raises(SourceError, match=r"has no config\.json"):
        resolve(str(tmp_path))


def test_a_folder_of_one_model_lacks_its_first_part(parts: list[Path], tmp_path: Path) -> None:
    parts[0].unlink()
    with pytest.raises(SourceError, match=r"tiny-00001-of-00003.gguf is missing: download it"):
        resolve(str(tmp_path))


def test_a_folder_of_several_gguf_models_is_named(parts: list[Path], tmp_path: Path) -> None:
    shutil.copy(parts[0], tmp_path / "other.gguf")
    with pytest.raises(SourceError, match=r"holds 2 GGUF models: give one of them, such as other.gguf, tiny-00001-of"):
        resolve(str(tmp_path))


def test_git_lfs_pointers(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_text(POINTER)
    with pytest.raises(SourceError, match=r"is a Git LFS pointer.*git lfs pull"):
        resolve(str(path))


@pytest.mark.parametrize(
    ("architecture", "general", "message"),
    [
        ("llama", {"general.type": "adapter"}, "is a LoRA adapter"),
        ("llama", {"adapter.type": "lora"}, "is a LoRA adapter"),
        ("clip", {}, "mmproj.*language model"),
        ("clip", {"general.type": "mmproj"}, "mmproj.*language model"),
        ("llama", {"general.type": "imatrix"}, "is an importance matrix"),
        ("llama", {"general.type": "vocab"}, "is a vocabulary without weights"),
        ("bert", {}, "architecture bert"),
    ],
)
def test_files_that_are_no_language_model(
    tmp_path: Path, architecture: str, general: dict[str, str], message: str
) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", architecture)
    for key, value in general.items():
        writer.add_string(key, value)
    writer.add_tensor("v.patch_embd.weight", random(4, HIDDEN))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(EdgekilnError, match=message):
        resolve(str(tmp_path / "m.gguf"))


def test_a_file_without_tensors(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is a vocabulary without weights"):
        resolve(str(write(tmp_path / "m.gguf", "llama", {})))


@pytest.mark.parametrize("kind", sorted(GGML_QUANT_SIZES))
def test_every_tensor_type_is_read_or_refused_by_name(tmp_path: Path, kind: GGMLQuantizationType) -> None:
    block, size = GGML_QUANT_SIZES[kind]
    raw = np.zeros((2, size), np.uint8)
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tensor("w", raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    try:
        expected = gguf.quants.dequantize(raw, kind)
    except NotImplementedError:
        with pytest.raises(UnsupportedModelError, match=f"stores w as {kind.name}"):
            GgufFile(tmp_path / "m.gguf")
        return
    found = GgufFile(tmp_path / "m.gguf").read("w")
    assert found.shape == (2, block)
    np.testing.assert_array_equal(found, expected.reshape(2, block))


@pytest.mark.parametrize("kind", [4, 5, 31, 99, 2**32 - 1])
def test_unknown_tensor_types_are_refused(tmp_path: Path, kind: int) -> None:
    path = write(tmp_path / "m.gguf", "llama", {"token_embd.weight": random(VOCAB, HIDDEN)})
    data, name = path.read_bytes(), b"token_embd.weight"
    at = data.index(name) + len(name) + 4 + 16
    path.write_bytes(data[:at] + kind.to_bytes(4, "little") + data[at + 4 :])
    with pytest.raises(UnsupportedModelError, match=f"token_embd.weight in ggml type {kind}"):
        GgufFile(path)


def sampling(path: Path, **values: Any) -> Any:
    writer = gguf.GGUFWriter(path / "m.gguf", "llama")
    for key, value in values.items():
        writer.add_key_value(f"general.sampling.{key}", value, gguf.GGUFValueType.get_type(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sampling_defaults(GgufFile(path / "m.gguf"))


def test_sampling_defaults(tmp_path: Path) -> None:
    found = sampling(tmp_path, temp=0.5, top_k=40, top_p=0.75, min_p=0.25, penalty_repeat=1.5, penalty_last_n=64)
    assert found.model_dump(exclude_none=True) == {
        "temperature": 0.5,
        "top_k": 40,
        "top_p": 0.75,
        "min_p": 0.25,
        "repetition_penalty": 1.5,
    }
    off = sampling(tmp_path, temp=0.0, top_k=0, top_p=1.0, min_p=0.0, penalty_repeat=1.0, mirostat=0)
    assert off.model_dump(exclude_none=True) == {}
    with pytest.raises(UnsupportedModelError, match=r"general.sampling.mirostat = 2, a sampler"):
        sampling(tmp_path, mirostat=2)
    with pytest.raises(SourceError, match=r"sampling defaults .* out of range"):
        sampling(tmp_path, top_p=7.0)
