"""Invalid engines, options and requests in libedgekiln: a status, one sentence, and the session stays usable."""

import json
import resource
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from edgekiln import runtimes
from edgekiln.engine.directory import sha256
from edgekiln.engine.manifest import SCHEMA_VERSION, read_manifest
from edgekiln.errors import EngineError
from edgekiln.runtimes.ort.kernels import ISA_VARIABLE, installed_library
from support.cpp_host import CANCELLED, ENGINE, MEMORY, OK, REQUEST, UNSUPPORTED, Host, refusal
from support.engines import LONG


@pytest.fixture
def engine(tiny_engine: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    shutil.copytree(tiny_engine, tmp_path / "copy")
    return tmp_path / "copy"


def edit(engine: Path, **fields: object) -> None:
    path = engine / "engine.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def python_error(engine: Path) -> str:
    with pytest.raises(EngineError) as caught:
        read_manifest(engine)
    return str(caught.value)


def test_a_missing_engine(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none") == (ENGINE, python_error(tmp_path / "none"))
    assert refusal(tmp_path) == (ENGINE, python_error(tmp_path))


def test_an_instruction_set_that_the_processor_lacks(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = installed_library()
    assert library is not None
    monkeypatch.setenv(ISA_VARIABLE, "sse9")
    sets = ", ".join(library.supported)
    assert refusal(engine) == (REQUEST, f"EDGEKILN_ISA must be {sets} or onnxruntime on this processor, got sse9")
    for name in ("onnxruntime", library.supported[-1]):
        monkeypatch.setenv(ISA_VARIABLE, name)
        with Host(engine) as host:
            assert host.hello["kernels"] == name


@pytest.mark.parametrize("name", ["generate.onnx", "weights.bin", "tokenizer.json"])
def test_a_file_that_is_missing_or_edited(engine: Path, name: str) -> None:
    content = bytearray((engine / name).read_bytes())
    content[len(content) // 2] ^= 1
    (engine / name).write_bytes(content)
    assert refusal(engine) == (ENGINE, python_error(engine))
    (engine / name).unlink()
    assert refusal(engine) == (ENGINE, python_error(engine))


@pytest.mark.parametrize("damage", ["edited", "cut"])
def test_large_weights_are_checked_while_they_are_loaded(engine: Path, damage: str) -> None:
    with (engine / "weights.bin").open("ab") as file:
        file.truncate(file.tell() + (16 << 20))
    edit(engine, files=read_manifest(engine, verify=False).files | {"weights.bin": sha256(engine / "weights.bin")})
    with Host(engine) as host:
        assert host.ask([1, 2, 3], max_tokens=1)
    with (engine / "weights.bin").open("r+b") as file:
        if damage == "cut":
            file.truncate((16 << 20) + 1)
        file.write(b"damaged")
    sentence = python_error(engine)
    assert "weights.bin is damaged or was edited" in sentence
    assert refusal(engine) == (ENGINE, sentence)
    with pytest.raises(EngineError) as caught:
        runtimes.open(engine)
    assert str(caught.value) == sentence


def test_a_graph_that_is_no_graph(engine: Path) -> None:
    (engine / "generate.onnx").write_bytes(b"no graph")
    status, sentence = refusal(engine, verify=False)
    assert status == ENGINE
    assert f"cannot load {engine / 'generate.onnx'}: " in sentence


def test_engine_json(engine: Path) -> None:
    good = (engine / "engine.json").read_text()
    (engine / "engine.json").write_text(good[: len(good) // 2])
    assert refusal(engine) == (
        ENGINE,
        f"{engine / 'engine.json'} is damaged: it is not JSON, build the engine again",
    )
    (engine / "engine.json").write_text(good)
    for version in (1, SCHEMA_VERSION + 1):
        edit(engine, schema_version=version)
        assert refusal(engine) == (UNSUPPORTED, python_error(engine))
    edit(engine, schema_version=SCHEMA_VERSION, target="tpu")
    status, sentence = refusal(engine)
    assert status == UNSUPPORTED
    assert sentence.startswith(f"{engine} is for target tpu, which this edgekiln does not run")


def test_files_outside_the_engine_are_not_read(engine: Path) -> None:
    manifest = json.loads((engine / "engine.json").read_text())
    outside = engine.parent / "outside"
    outside.write_text("")
    edit(engine, files=manifest["files"] | {"../outside": "0"})
    assert refusal(engine) == (ENGINE, f"{engine / '../outside'} is missing from the engine: build it again")


def test_engine_options(tiny_engine: Path) -> None:
    status, sentence = refusal(tiny_engine, threads=-1)
    assert (status, sentence) == (REQUEST, "threads must be at least 1, got -1")
    status, sentence = refusal(tiny_engine, kernels_library="/nowhere.so")
    assert status == REQUEST
    assert sentence.startswith("/nowhere.so is no library of edgekiln's kernels")


@pytest.mark.parametrize(
    ("context", "advice"),
    [
        (256, "shorten it, as the model holds no more"),
        (512, "shorten it or build the engine with a larger --max-length"),
        (None, "shorten it or build the engine with a larger --max-length"),
    ],
)
def test_advice_on_long_prompts(engine: Path, context: int | None, advice: str) -> None:
    architecture = json.loads((engine / "engine.json").read_text())["architecture"]
    assert architecture["context_length"] == 256
    edit(engine, architecture={**architecture, "context_length": context})
    with Host(engine) as host:
        for request, words in (
            ({"ids": [1] * 257}, "prompt has 257 tokens, the engine holds 256"),
            ({"ids": [1] * 256}, "leaves no room for an answer in the 256 the engine holds"),
            ({"text": "a" * 100_000}, "characters, which are more than the 256 tokens the engine holds"),
        ):
            reply = host.ask(**request)
            assert reply["status"] == REQUEST
            assert reply["error"].endswith(f"{words}: {advice}")


def test_requests(tiny_engine: Path) -> None:
    with Host(tiny_engine, text=False) as host:
        for request, sentence in [
            ({"ids": []}, "prompt is empty: give at least one token"),
            ({"ids": [1, 5000]}, "token id 5000 is outside the vocabulary of 320: check the tokenizer"),
            ({"ids": [-1]}, "token id -1 is outside the vocabulary of 320: check the tokenizer"),
            (
                {"ids": [1] * 257},
                "prompt has 257 tokens, the engine holds 256: shorten it, as the model holds no more",
            ),
            (
                {"ids": [1] * 256},
                "prompt has 256 tokens, which leaves no room for an answer in the 256 the engine holds: "
                "shorten it, as the model holds no more",
            ),
            ({"ids": [1], "max_tokens": 0}, "max_tokens must be at least 1, got 0"),
            ({"ids": [1], "temperature": -1}, "temperature must be 0 or more, got -1.0"),
            ({"ids": [1], "stop": [""]}, "stop must be strings that are not empty"),
            ({"ids": [1], "stop": ["x"]}, "stop strings need the engine's tokenizer: open the engine with it"),
            (
                {"text": "hello"},
                "the engine was opened without its tokenizer: open it with text, or give token ids",
            ),
        ]:
            reply = host.ask(**request)
            assert (reply["status"], reply["error"], reply["ids"]) == (REQUEST, sentence, [])
        assert host.ask([1, 2, 3], max_tokens=2)["status"] == OK


def test_zero_bytes_do_not_end_strings(tiny_engine: Path) -> None:
    with Host(tiny_engine) as host:
        for request, sentence in [
            ({"messages": [{"role": "user", "content": "a\0b"}]}, "message 1 has a zero byte in its role or content"),
            ({"text": "hello", "stop": ["a\0b"]}, "a stop string has a zero byte"),
        ]:
            reply = host.ask(**request)
            assert (reply["status"], reply["error"], reply["ids"]) == (REQUEST, f"{sentence}: remove it", [])


def test_cancelling(tiny_engine: Path) -> None:
    with Host(tiny_engine, text=False) as host:
        whole = host.ask([5, 6, 7], max_tokens=60, ignore_eos=True)
        cancelled = host.ask([5, 6, 7], max_tokens=60, ignore_eos=True, cancel_after=10)
        assert (cancelled["status"], cancelled["error"]) == (CANCELLED, "the answer was cancelled")
        assert cancelled["ids"] == whole["ids"][:10]
        refused = host.ask([5, 6, 7], max_tokens=60, ignore_eos=True, refuse_after=4)
        assert (refused["status"], refused["ids"]) == (CANCELLED, whole["ids"][:4])
        assert host.ask([5, 6, 7], max_tokens=60, ignore_eos=True)["ids"] == whole["ids"]


def test_cancelling_in_mid_prompt(long_engine: Path) -> None:
    prompt = np.random.default_rng(0).integers(0, 256, LONG // 4)
    with Host(long_engine, text=False, chunk=16) as host:
        reply = host.ask(prompt, cancel_after=0, cancel_wait_ms=100)
        assert (reply["status"], reply["ids"]) == (CANCELLED, [])
        whole = host.ask(prompt[:100], max_tokens=4, ignore_eos=True)
        # Tokens computed before the cancellation are kept.
        assert whole["cached_tokens"] == 99
        assert host.ask(prompt[:100], max_tokens=4, ignore_eos=True, reset=True)["ids"] == whole["ids"]


def test_cancelling_while_a_text_is_tokenized(long_engine: Path) -> None:
    with Host(long_engine) as host:
        start = time.monotonic()
        reply = host.ask(text="a b" * 1_000_000, cancel_after=0, cancel_wait_ms=20)
        assert (reply["status"], reply["error"]) == (CANCELLED, "the answer was cancelled")
        assert time.monotonic() - start < 5
        assert host.ask(text="hello", max_tokens=2)["status"] == OK


def test_out_of_memory(long_engine: Path) -> None:
    with Host(long_engine, text=False) as host:
        before = host.ask([5, 6, 7], max_tokens=4, ignore_eos=True)
        pid = host.process.pid
        status = dict(line.split(":") for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
        room = int(status["VmSize"].split()[0]) * 1024 + 128 * 1024 * 1024
        resource.prlimit(pid, resource.RLIMIT_AS, (room, room))
        reply = host.ask(np.full(LONG - 1, 9))
        assert reply["status"] == MEMORY
        assert reply["error"].startswith("no memory for the keys and values of 262144 tokens")
        assert host.ask([5, 6, 7], max_tokens=4, ignore_eos=True)["ids"] == before["ids"]
