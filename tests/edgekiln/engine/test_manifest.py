"""engine.json is validated when it is read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgekiln.engine.directory import sha256
from edgekiln.engine.manifest import (
    Architecture,
    EngineManifest,
    KVCacheSpec,
    QuantizationRecipe,
    SamplingDefaults,
    SpecialTokens,
    read_manifest,
    write_manifest,
)
from edgekiln.errors import EngineError

FIELDS: dict[str, Any] = {
    "name": "tiny",
    "source": "somewhere/tiny",
    "target": "ort-cpu",
    "architecture": Architecture(
        model_type="llama",
        vocab_size=320,
        hidden_size=64,
        layers=2,
        heads=4,
        kv_heads=[2, 2],
        head_dims=[16, 16],
        max_length=256,
        parameters=1000,
    ),
    "graphs": {"generate": "generate.onnx"},
    "kv_cache": KVCacheSpec(layout="shared-buffer", dtype="float32"),
    "quantization": QuantizationRecipe(scheme="int4", group_size=32),
    "special_tokens": SpecialTokens(bos=1, eos=[2, 3]),
    "sampling": SamplingDefaults(temperature=0.6),
    "versions": {"edgekiln": "0"},
}


def fill(directory: Path, **fields: Any) -> EngineManifest:
    (directory / "generate.onnx").write_bytes(b"graph")
    (directory / "weights.bin").write_bytes(bytes(range(256)))
    (directory / "tokenizer.json").write_bytes(b"{}")
    return write_manifest(directory, **{**FIELDS, **fields})


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    directory = tmp_path / "engine"
    directory.mkdir()
    fill(directory)
    return directory


def edit(engine: Path, change: Callable[[dict[str, Any]], None]) -> None:
    raw = json.loads((engine / "engine.json").read_text())
    change(raw)
    (engine / "engine.json").write_text(json.dumps(raw))


def test_manifest_is_read_back_as_written(tmp_path: Path) -> None:
    written = fill(tmp_path)
    assert read_manifest(tmp_path) == written
    assert read_manifest(str(tmp_path)).files.keys() == {"generate.onnx", "weights.bin", "tokenizer.json"}


def test_no_directory(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"no engine directory at .*/absent: build one with"):
        read_manifest(tmp_path / "absent")
    with pytest.raises(EngineError, match=r"has no engine\.json, so it is not an engine directory"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"\xff\xfe\x00", b'{"schema_version": 1', b"[" * 100000, b"[" * 100000 + b"]" * 100000),
        *(b'{"a": NaN}', b'{"a": -Infinity}', b'{"a": 1e999}', b'{"a": ' + b"9" * 400 + b"}", b"9" * 5000),
        *(b'{"a": "\\ud800"}', b'{"a": "\xff"}', b"\xef\xbb\xbf{}", "{}".encode("utf-16"), b"{}\0", b'{"a": "\0"}'),
        *(b"[" * 101 + b"]" * 101, b"{} {}", b"{1: 2}", b"{'a': 1}", b"[1,]", b"01"),
    ],
)
def test_damaged_json(engine: Path, content: bytes) -> None:
    (engine / "engine.json").write_bytes(content)
    with pytest.raises(EngineError, match=r"engine\.json is damaged: it is not JSON, build the engine again$"):
        read_manifest(engine)


@pytest.mark.parametrize("content", [b"[]", b"null", b'"engine"', b"7", b"[" * 100 + b"]" * 100])
def test_json_of_another_type(engine: Path, content: bytes) -> None:
    (engine / "engine.json").write_bytes(content)
    with pytest.raises(EngineError, match=r"engine\.json is damaged: it is not an object, build the engine again$"):
        read_manifest(engine)


def test_of_equal_keys_the_last_one_counts(engine: Path) -> None:
    path = engine / "engine.json"
    path.write_text(path.read_text().replace('"name": "tiny"', '"name": 7, "name": "last"'))
    assert read_manifest(engine).name == "last"


@pytest.mark.parametrize("version", [6, 10**9])
def test_a_newer_schema(engine: Path, version: object) -> None:
    # The fields of a newer manifest are unknown: only its version is read.
    edit(engine, lambda raw: raw.update(schema_version=version, novelty=True))
    with pytest.raises(EngineError, match=r"has schema version .*, this edgekiln reads version 5: upgrade edgekiln"):
        read_manifest(engine)


@pytest.mark.parametrize("version", [4, 1, 0, -3])
def test_an_older_schema(engine: Path, version: int) -> None:
    edit(engine, lambda raw: raw.update(schema_version=version, kv=raw.pop("kv_cache")))
    sentence = f"has schema version {version}, this edgekiln reads version 5: build the engine again"
    with pytest.raises(EngineError, match=sentence):
        read_manifest(engine)


@pytest.mark.parametrize("version", ["5", None, 1.5, 5.0, True, 2**63])
def test_a_schema_version_that_is_no_integer(engine: Path, version: object) -> None:
    edit(engine, lambda raw: raw.update(schema_version=version))
    with pytest.raises(EngineError, match=r"schema_version: it is (missing|not an integer), build"):
        read_manifest(engine)


def set_field(raw: dict[str, Any], path: str, value: object) -> None:
    *parents, last = path.split("/" if "/" in path else ".")
    for parent in parents:
        raw = raw.setdefault(parent, {})
    if value is ...:
        del raw[last]
    else:
        raw[last] = value


STATE = {"shape": [4, 8], "dtype": "float32"}
# Field, value, and the sentence; the C++ reader has the same ones, see tests/support/refusals.py.
REFUSED: list[tuple[str, object, str]] = [
    ("target", ..., "target: it is missing"),
    ("target", None, "target: it is missing"),
    ("novelty", None, "novelty: it is not known"),
    ("zzz\n", {"a": 1}, "zzz?: it is not known"),
    ("k" * 100, 1, "k" * 60 + "\u2026: it is not known"),
    ("architecture.vocab_size", 0, "architecture.vocab_size: it is 0, the least is 1"),
    ("architecture.vocab_size", "320", "architecture.vocab_size: it is not an integer"),
    ("architecture.vocab_size", 320.0, "architecture.vocab_size: it is not an integer"),
    ("architecture.vocab_size", 2**63, "architecture.vocab_size: it is not an integer"),
    ("architecture.vocab_size", 10**12, "architecture: a vocabulary of 1000000000000 for 256 positions"),
    ("architecture.max_length", 10**12, "architecture: a vocabulary of 320 for 1000000000000 positions"),
    ("architecture.kv_heads", [2], "architecture: 2 layers have 1 kv_heads and 2 head_dims"),
    ("architecture.head_dims", [], "architecture: 2 layers have 2 kv_heads and 0 head_dims"),
    ("architecture.layers", 10**9, "architecture: 1000000000 layers have 2 kv_heads and 2 head_dims"),
    ("architecture.kv_heads", "many", "architecture.kv_heads: it is not a list"),
    ("architecture.kv_heads", [2, 0], "architecture.kv_heads.1: it is 0, the least is 1"),
    ("architecture.kv_heads", [2, None], "architecture.kv_heads.1: it is not an integer"),
    ("architecture.head_dims", [16, 2**25], "architecture: KV cache layer 1 has keys of 2 times 33554432"),
    ("architecture.heads", -1, "architecture.heads: it is -1, the least is 0"),
    ("io.past_key", "past.key", "io: past_key has no {layer}"),
    ("io.past_state", "past.{layer}", "io: past_state has no {state}"),
    ("io.present_state", "past_state.{state}", "io: present_state has the name of past_state"),
    ("io.logits", "", "io: logits is empty"),
    ("io.logits", "a\0", "io: logits has a zero byte"),
    ("io.logits", "input_ids", "io: logits has the name of input_ids"),
    ("io.total_length", "logits", "io: total_length has the name of logits"),
    ("kv_cache.layout", "paper", "kv_cache.layout: paper is not known"),
    ("kv_cache.layout", ["growing"], "kv_cache.layout: it is not a string"),
    ("kv_cache.dtype", "x" * 10**5, "kv_cache.dtype: " + "x" * 60 + "\u2026 is not known"),
    ("kv_cache.windows", [0, -1], "kv_cache.windows.1: it is -1, the least is 0"),
    ("kv_cache.windows", [0, 8], "io.window_start: it is missing"),
    ("kv_cache.windows", [8], "kv_cache: 1 windows for 2 KV cache layers"),
    ("kv_cache.windows", [0, 10**12], "kv_cache: a window of 1000000000000 tokens"),
    ("kv_cache.recompute_beyond", 0, "kv_cache.recompute_beyond: it is 0, the least is 1"),
    ("kv_cache.recompute_beyond", 8, "io.sequence_length: it is missing"),
    ("io.sequence_length", "lengths", "kv_cache.recompute_beyond: it is missing"),
    ("kv_cache.states", {}, "kv_cache.states: it is not a list"),
    ("kv_cache.states", [None], "kv_cache.states.0: it is not an object"),
    ("kv_cache.states", [{"shape": [1]}, 7], "kv_cache.states.0.dtype: it is missing"),
    ("kv_cache.states", [STATE, 7], "kv_cache.states.1: it is not an object"),
    ("kv_cache.states", [{"shape": None, "dtype": "float32"}], "kv_cache.states.0.shape: it is missing"),
    ("kv_cache.states", [{"shape": [2, 0], "dtype": "float32"}], "kv_cache.states.0.shape.1: it is 0, the least is 1"),
    ("kv_cache.states", [STATE, {"shape": [2], "dtype": "int8"}], "kv_cache.states.1.dtype: int8 is not known"),
    ("kv_cache.states", [{**STATE, "size": 1}], "kv_cache.states.0.size: it is not known"),
    ("kv_cache.states", [{**STATE, "shape": [1] * 9}], "kv_cache.states.0: it has 9 sizes"),
    (
        "kv_cache.states",
        [{**STATE, "shape": [2**62, 5, 2**62]}],
        "kv_cache.states.0: it has 4611686018427387904 times 5 times 4611686018427387904 elements",
    ),
    (
        "kv_cache.states",
        [{**STATE, "shape": [2**14, 2**14, 2]}],
        "kv_cache.states.0: it has 16384 times 16384 times 2 elements",
    ),
    ("kv_cache.states", [STATE] * 65537, "kv_cache: 65537 states"),
    ("io.window_start", "start", "io: window_start has no {window}"),
    ("special_tokens.bos", -1, "special_tokens.bos: it is -1, the least is 0"),
    ("special_tokens.bos", 320, "special_tokens: 320 is not below the vocabulary of 320"),
    ("special_tokens.eos", [2, 2**40], "special_tokens: 1099511627776 is not below the vocabulary of 320"),
    ("special_tokens.eos", [-1], "special_tokens.eos.0: it is -1, the least is 0"),
    ("special_tokens.eos", 2, "special_tokens.eos: it is not a list"),
    ("special_tokens.add_bos", 1, "special_tokens.add_bos: it is not true or false"),
    (
        "special_tokens.template_variables.bos_token",
        7,
        "special_tokens.template_variables.bos_token: it is not a string or a list of strings",
    ),
    ("sampling.temperature", -1, "sampling.temperature: it is not 0 or more"),
    ("sampling.temperature", True, "sampling.temperature: it is not a number"),
    ("sampling.temperature", "0.7", "sampling.temperature: it is not a number"),
    ("sampling.top_k", -1, "sampling.top_k: it is -1, the least is 0"),
    ("sampling.top_p", 1.5, "sampling.top_p: it is not from 0 to 1"),
    ("sampling.min_p", -0.1, "sampling.min_p: it is not from 0 to 1"),
    ("sampling.repetition_penalty", 0, "sampling.repetition_penalty: it is not more than 0"),
    ("quantization.group_size", 0, "quantization.group_size: it is 0, the least is 1"),
    ("graphs", {}, "graphs: generate is missing"),
    ("graphs.generate", None, "graphs.generate: it is missing"),
    ("files/tokenizer.json", ..., "files: tokenizer.json is missing"),
    ("files.a", [], "files.a: it is not a string"),
]


@pytest.mark.parametrize(("field", "value", "sentence"), REFUSED, ids=[f"{row[0]}-{row[1]!r:.20}" for row in REFUSED])
def test_a_field_that_does_not_fit_is_named(engine: Path, field: str, value: object, sentence: str) -> None:
    edit(engine, lambda raw: set_field(raw, field, value))
    with pytest.raises(EngineError) as caught:
        read_manifest(engine)
    assert str(caught.value) == f"{engine / 'engine.json'} is damaged: {sentence}, build the engine again"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("io", None),
        ("io.logits", None),
        ("tensorrt", None),
        ("architecture.heads", 0),
        ("architecture.layers", 3),
        ("kv_cache.states", [STATE, {"shape": [2**14, 2**14], "dtype": "float16"}, {"shape": [], "dtype": "float32"}]),
        ("special_tokens.eos", None),
        ("special_tokens.bos", 319),
        ("special_tokens.template_variables", {"bos_token": "<s>", "extra": ["a", "b"]}),
        ("sampling.temperature", 0),
        ("sampling.temperature", 1e-6),
        ("sampling.top_p", 0),
        ("sampling.repetition_penalty", 2),
    ],
)
def test_a_legal_value(engine: Path, field: str, value: object) -> None:
    edit(engine, lambda raw: set_field(raw, field, value))
    read_manifest(engine)


def test_a_model_without_attention(engine: Path) -> None:
    def change(raw: dict[str, Any]) -> None:
        raw["architecture"].update(heads=0, kv_heads=[], head_dims=[])
        raw["kv_cache"].update(states=[STATE, STATE])

    edit(engine, change)
    assert [state.shape for state in read_manifest(engine).kv_cache.states] == [[4, 8], [4, 8]]


def test_a_missing_file(engine: Path) -> None:
    (engine / "weights.bin").unlink()
    with pytest.raises(EngineError, match=r"weights\.bin is missing from the engine"):
        read_manifest(engine, verify=False)


@pytest.mark.parametrize("content", [b"", bytes(256), bytes(range(256)) + b"\0"])
def test_an_edited_file(engine: Path, content: bytes) -> None:
    (engine / "weights.bin").write_bytes(content)
    with pytest.raises(EngineError, match=r"weights\.bin is damaged or was edited"):
        read_manifest(engine)
    assert read_manifest(engine, verify=False).name == "tiny"


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "sub/file", "..", ".", "", "sub/../weights.bin"])
def test_a_file_name_that_leaves_the_directory(engine: Path, name: str) -> None:
    secret = engine.parent / "secret"
    secret.write_text("key")
    (engine / "sub").mkdir()
    (engine / "sub" / "file").write_text("key")
    edit(engine, lambda raw: raw["files"].update({name: sha256(secret)}))
    with pytest.raises(EngineError, match="is missing from the engine"):
        read_manifest(engine)


@pytest.mark.parametrize("name", ["../secret", "other.onnx", "/etc/passwd"])
def test_a_graph_that_is_not_listed(engine: Path, name: str) -> None:
    (engine.parent / "secret").write_text("key")
    (engine / "other.onnx").write_bytes(b"graph")
    edit(engine, lambda raw: raw["graphs"].update(generate=name))
    with pytest.raises(EngineError, match=r"names .* as its generate graph but lists no such file"):
        read_manifest(engine)


@pytest.mark.parametrize("name", ["a\nb", "\x1b[31mred", "x" * 100_000])
def test_a_name_of_an_untrusted_file_fits_a_line(engine: Path, name: str) -> None:
    for change in (
        lambda raw: raw.update({name: 1}),
        lambda raw: raw["files"].update({name: "0"}),
        lambda raw: raw["graphs"].update({name: "other"}),
        lambda raw: raw["graphs"].update({"generate": name}),
        lambda raw: raw["kv_cache"].update(layout=name),
    ):
        good = (engine / "engine.json").read_bytes()
        edit(engine, change)
        with pytest.raises(EngineError) as caught:
            read_manifest(engine)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 500
        (engine / "engine.json").write_bytes(good)
