"""Triton model repositories: config.pbtxt compared with Triton's schema and with the graph."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from edgekiln import runtimes
from edgekiln.cli import main
from edgekiln.engine.manifest import KVCacheSpec, read_manifest
from edgekiln.errors import EngineError, RequestError
from edgekiln.integrations import triton
from edgekiln.integrations.triton import config, write_repository
from edgekiln.sources.resolve import resolve
from support.cuda_engines import write_cuda_engine
from support.hybrid_engine import HybridDecoder
from support.hybrid_engine import write_engine as write_hybrid_engine
from support.models import VOCABULARY

Field = descriptor_pb2.FieldDescriptorProto
# Numbers and types of the fields of Triton's model_config.proto that config.pbtxt has.
MESSAGES = {
    "ModelInput": {"name": (1, "string"), "data_type": (2, "DataType"), "dims": (4, "int64*")},
    "ModelOutput": {"name": (1, "string"), "data_type": (2, "DataType"), "dims": (3, "int64*")},
    "ModelInstanceGroup": {"count": (2, "int32"), "kind": (4, "Kind")},
    "ModelConfig": {
        "name": (1, "string"),
        "max_batch_size": (4, "int32"),
        "input": (5, "ModelInput*"),
        "output": (6, "ModelOutput*"),
        "instance_group": (7, "ModelInstanceGroup*"),
        "default_model_filename": (8, "string"),
        "backend": (17, "string"),
    },
}
ENUMS = {
    "DataType": {"TYPE_INVALID": 0, "TYPE_INT8": 6, "TYPE_INT32": 8, "TYPE_INT64": 9, "TYPE_FP16": 10, "TYPE_FP32": 11},
    "Kind": {"KIND_AUTO": 0, "KIND_GPU": 1, "KIND_CPU": 2},
}
SCALARS = {"string": Field.TYPE_STRING, "int32": Field.TYPE_INT32, "int64": Field.TYPE_INT64}
# ONNX Runtime's names of Triton's data types.
ORT_TYPES = {8: "tensor(int32)", 9: "tensor(int64)", 10: "tensor(float16)", 11: "tensor(float)"}


def schema() -> Any:
    """The protobuf class ModelConfig, built from the tables above."""
    file = descriptor_pb2.FileDescriptorProto(name="model_config.proto", package="inference", syntax="proto3")
    for name, values in ENUMS.items():
        enum = file.enum_type.add(name=name)
        for value, number in values.items():
            enum.value.add(name=value, number=number)
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, described) in fields.items():
            repeated, kind = described.endswith("*"), described.rstrip("*")
            new = message.field.add(
                name=field, number=number, label=Field.LABEL_REPEATED if repeated else Field.LABEL_OPTIONAL
            )
            if kind in SCALARS:
                new.type = SCALARS[kind]
            else:
                new.type = Field.TYPE_ENUM if kind in ENUMS else Field.TYPE_MESSAGE
                new.type_name = f".inference.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))


@pytest.fixture(scope="module")
def model_config() -> Any:
    return schema()


@pytest.fixture(scope="module")
def cuda_engine(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    engine = tmp_path_factory.mktemp("triton") / "tiny"
    write_cuda_engine(resolve(str(tiny_checkpoint)), engine, "int4")
    return engine


def parsed(model: Path, model_config: Any) -> Any:
    return text_format.Parse((model / "config.pbtxt").read_text(encoding="utf-8"), model_config())


@pytest.mark.parametrize("target", ["ort-cpu", "ort-cuda"])
def test_config_has_the_inputs_and_outputs_of_the_graph(
    target: str, tiny_engine: Path, cuda_engine: Path, tmp_path: Path, model_config: Any
) -> None:
    engine = tiny_engine if target == "ort-cpu" else cuda_engine
    model = write_repository(engine, tmp_path / "repository", "small", instances=2)
    assert model == tmp_path / "repository" / "small"
    assert sorted(str(path.relative_to(model)) for path in model.rglob("*")) == [
        "1",
        "1/generate.onnx",
        "1/weights.bin",
        "config.pbtxt",
    ]
    written = parsed(model, model_config)
    assert (written.name, written.backend, written.max_batch_size) == ("small", "onnxruntime", 0)
    (group,) = written.instance_group
    assert (group.kind, group.count) == (ENUMS["Kind"]["KIND_CPU" if target == "ort-cpu" else "KIND_GPU"], 2)
    session = ort.InferenceSession(model / "1" / written.default_model_filename, providers=["CPUExecutionProvider"])
    for tensors, actual in ((written.input, session.get_inputs()), (written.output, session.get_outputs())):
        assert {tensor.name for tensor in tensors} == {value.name for value in actual}
        for value in actual:
            tensor = next(tensor for tensor in tensors if tensor.name == value.name)
            assert ORT_TYPES[tensor.data_type] == value.type
            assert len(tensor.dims) == len(value.shape)
            assert all(
                size in (-1, dim) for size, dim in zip(tensor.dims, value.shape, strict=True) if isinstance(dim, int)
            )


def test_states_are_inputs_and_outputs(tmp_path: Path) -> None:
    engine = write_hybrid_engine(tmp_path / "engine", HybridDecoder.random())
    session = ort.InferenceSession(engine / "generate.onnx", providers=["CPUExecutionProvider"])
    tensors = zip(triton.tensors(read_manifest(engine)), (session.get_inputs(), session.get_outputs()), strict=True)
    for ours, actual in tensors:
        assert [tensor.name for tensor in ours if "state" in tensor.name] == [
            value.name for value in actual if "state" in value.name
        ]
        assert {tensor.name for tensor in ours} == {value.name for value in actual}
        shapes = {value.name: tuple(value.shape[1:]) for value in actual}
        assert all(tensor.dims[1:] == shapes[tensor.name] for tensor in ours if "state" in tensor.name)


@pytest.mark.parametrize("target", ["ort-cpu", "ort-cuda"])
def test_a_client_that_sends_the_kv_cache_gets_the_engines_logits(
    target: str, tiny_engine: Path, cuda_engine: Path, tmp_path: Path, model_config: Any
) -> None:
    """Like a client: each request sends the past keys and values, and the next request sends its present ones."""
    model = write_repository(tiny_engine if target == "ort-cpu" else cuda_engine, tmp_path, "small")
    written = parsed(model, model_config)
    session = ort.InferenceSession(model / "1" / written.default_model_filename, providers=["CPUExecutionProvider"])
    ids = np.random.default_rng(0).integers(0, VOCABULARY, 12)
    numpy_types = {10: np.float16, 11: np.float32}
    past = {
        t.name: np.zeros((1, t.dims[1], 0, t.dims[3]), numpy_types[t.data_type]) for t in written.input if t.dims[3:]
    }
    for new in (np.arange(10), np.array([10]), np.array([11])):
        feeds = {"input_ids": ids[None, new], "position_ids": new[None], **past}
        if target == "ort-cuda":
            feeds["total_length"] = np.array([new[-1] + 1], np.int32)
        else:
            feeds["logits_to_keep"] = np.array([1])
        logits, *present = session.run([tensor.name for tensor in written.output], feeds)
        past = dict(zip(past, present, strict=True))
    assert present[0].shape[2] == len(ids)
    expected = runtimes.open(tiny_engine, kernels="onnxruntime").score(ids)[-1]
    assert np.linalg.norm(logits[0, 0] - expected) < 0.06 * np.linalg.norm(expected)


def test_the_command_replaces_a_model_and_leaves_other_folders_alone(tiny_engine: Path, tmp_path: Path) -> None:
    arguments = ["triton", str(tiny_engine), "-o", str(tmp_path), "--name"]
    for _ in range(2):
        result = CliRunner().invoke(main, [*arguments, "small"])
        assert result.exit_code == 0, result.output
        assert "tritonserver --model-repository" in result.stdout
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "todo.txt").write_text("buy milk")
    result = CliRunner().invoke(main, [*arguments, "notes"])
    assert result.exit_code == 2
    assert "notes exists and is not a model of Triton: choose another output" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes", "small"]


@pytest.mark.parametrize("name", ["a/b", "..", "é", "-x"])
def test_invalid_model_names_are_refused(tiny_engine: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(RequestError, match="is no model name for Triton"):
        write_repository(tiny_engine, tmp_path, name)
    assert list(tmp_path.iterdir()) == []


def test_engines_that_triton_cannot_run_are_refused(tiny_engine: Path, tmp_path: Path) -> None:
    manifest = read_manifest(tiny_engine)
    with pytest.raises(RequestError, match="Triton has no backend for target trt-rtx: build the engine for ort-cpu,"):
        config(manifest.model_copy(update={"target": "trt-rtx"}), "small")
    in_place = KVCacheSpec.model_construct(layout="in-place", dtype="float16")
    with pytest.raises(RequestError, match="a cache of layout in-place needs past and present at one address"):
        config(manifest.model_copy(update={"target": "trt", "kv_cache": in_place}), "small")
    with pytest.raises(EngineError, match="no engine directory"):
        write_repository(tmp_path / "nowhere", tmp_path)
    with pytest.raises(RequestError, match="instances must be at least 1, got 0"):
        write_repository(tiny_engine, tmp_path, instances=0)
