"""`edgekiln bench`, `eval` and `inspect`: the fields of their JSON, and their numbers against the library's."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgekiln import runtimes
from edgekiln.engine.directory import ENGINE_FILE, QUANTIZATION_FILE
from edgekiln.engine.manifest import read_manifest
from edgekiln.engine.reports import read_report
from edgekiln.runtimes.text.tokenizer import Tokenizer
from support.command import edgekiln
from support.hybrid_engine import RECURRENT, HybridDecoder, write_engine

TEXT = "The quick brown fox jumps over the lazy dog, and the dog does not mind. " * 3


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_bench_json(tiny_engine: Path) -> None:
    sizes = ("--prompt-tokens", "8", "--gen-tokens", "4", "--batch", "2", "--repeat", "3")
    result = edgekiln("bench", tiny_engine, *sizes, "--json")
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    workload = {"prompt_tokens": 8, "gen_tokens": 4, "batch": 2, "repeat": 3}
    assert {name: figures[name] for name in workload} == workload
    for name in ("ttft_ms", "prefill_tokens_per_s", "decode_tokens_per_s"):
        low, high = figures[f"{name}_range"]
        assert 0 < low <= figures[name] <= high
    assert 0 < figures["inter_token_p50_ms"] <= figures["inter_token_p95_ms"]
    assert figures["ttft_ms"] == pytest.approx(16 / figures["prefill_tokens_per_s"] * 1e3)
    assert figures["load_ms"] > 0
    assert figures["peak_rss_mb"] > 10
    assert figures["step_weight_bytes"] == read_report(tiny_engine).step_weight_bytes > 1000


def test_bench_text(tiny_engine: Path) -> None:
    lines = edgekiln("bench", tiny_engine, "--prompt-tokens", "8", "--gen-tokens", "4").stdout.splitlines()
    assert lines[0] == f"{tiny_engine}: 8 prompt tokens, 4 generated, batch 1, 5 repeats"
    assert [line[:16].strip() for line in lines[1:]] == [
        "kernels",
        "load",
        "first token",
        "prefill",
        "decode",
        "inter-token p50",
        "inter-token p95",
        "peak memory",
        "read per token",
    ]


def test_bench_beyond_max_length(tiny_engine: Path) -> None:
    holds = read_manifest(tiny_engine).architecture.max_length
    result = edgekiln("bench", tiny_engine, "--prompt-tokens", str(holds), "--gen-tokens", "2")
    assert result.exit_code == 2
    assert f"prompt and answer have {holds + 2} tokens, the engine holds {holds}" in result.stderr


def test_eval_json_against_the_definition(tiny_engine: Path, text: Path) -> None:
    result = edgekiln("eval", tiny_engine, "--text", text, "--window", "16", "--max-tokens", "40", "--json")
    assert result.exit_code == 0, result.output
    runtime = runtimes.open(tiny_engine)
    ids = Tokenizer.from_engine(tiny_engine, read_manifest(tiny_engine)).encode(TEXT)[:40]
    losses = []
    for start in range(0, 40, 16):
        window = ids[start : start + 16]
        logits = runtime.score(window).astype(np.float64)
        losses += [
            np.logaddexp.reduce(row) - row[following] for row, following in zip(logits, window[1:], strict=False)
        ]
    assert json.loads(result.stdout) == {
        "engine": str(tiny_engine),
        "text": str(text),
        "reference": None,
        "window": 16,
        "perplexity": pytest.approx(np.exp(np.mean(losses)), rel=1e-6),
        "tokens": 37,
        "kl_divergence": None,
        "same_top": None,
        "reference_perplexity": None,
    }


def test_eval_windows_are_what_the_engine_holds(tiny_engine: Path, text: Path) -> None:
    holds = read_manifest(tiny_engine).architecture.max_length
    text.write_text(TEXT * 20, encoding="utf-8")
    figures = json.loads(edgekiln("eval", tiny_engine, "--text", text, "--json").stdout)
    assert figures["window"] == holds < 512
    assert figures["tokens"] > holds
    over = edgekiln("eval", tiny_engine, "--text", text, "--window", str(holds + 1))
    assert f"over the {holds} that the engine holds" in over.stderr


def test_eval_of_stdin(tiny_engine: Path, text: Path) -> None:
    expected = edgekiln("eval", tiny_engine, "--text", text).stdout
    command = [sys.executable, "-m", "edgekiln", "eval", str(tiny_engine), "--text", "-"]
    done = subprocess.run(command, input=TEXT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", expected)


def test_eval_with_an_engine_as_reference(tiny_engine: Path, text: Path) -> None:
    arguments = ("eval", tiny_engine, "--text", text, "--reference", tiny_engine)
    figures = json.loads(edgekiln(*arguments, "--json").stdout)
    assert figures["reference"] == str(tiny_engine)
    assert figures["kl_divergence"] == pytest.approx(0, abs=1e-9)
    assert figures["same_top"] == 1
    assert figures["reference_perplexity"] == figures["perplexity"]
    lines = edgekiln(*arguments).stdout.splitlines()
    assert lines[0].startswith("perplexity ")
    assert lines[1].startswith("KL divergence  0.00000 nats from ")
    assert lines[2] == "same top token 100.00%"
    assert lines[3] == f"reference ppl  {figures['perplexity']:.6g}"


def test_eval_of_two_engines_needs_no_torch(tiny_engine: Path, text: Path) -> None:
    script = (
        "import sys\n"
        "sys.modules.update(torch=None, transformers=None, onnx=None)\n"
        "from edgekiln.cli import main\n"
        f"main(['eval', {str(tiny_engine)!r}, '--text', {str(text)!r}, '--reference', {str(tiny_engine)!r}])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "same top token 100.00%" in done.stdout


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file or directory"),
        (b"", "the text must have at least 2 tokens"),
        (b"caf\xe9", "is not UTF-8 text (byte 3): convert it first"),
    ],
    ids=["missing", "empty", "latin-1"],
)
def test_eval_of_an_unusable_text(tiny_engine: Path, tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    result = edgekiln("eval", tiny_engine, "--text", path)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert message in line


def test_eval_with_an_unknown_reference(tiny_engine: Path, text: Path) -> None:
    result = edgekiln("eval", tiny_engine, "--text", text, "--reference", "no-such-model")
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert "no model 'no-such-model'" in line


def test_inspect_json_against_the_files(tiny_engine: Path) -> None:
    result = edgekiln("inspect", tiny_engine, "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    manifest = read_manifest(tiny_engine)
    assert facts["architecture"] == manifest.architecture.model_dump()
    assert facts["quantization"] == manifest.quantization.model_dump()
    files = {path.name: path.stat().st_size for path in tiny_engine.iterdir() if path.name != ENGINE_FILE}
    assert facts["sizes"] == files
    for role, name in manifest.graphs.items():
        nodes = onnx.load(tiny_engine / name, load_external_data=False).graph.node
        names = [f"{node.domain}::{node.op_type}".removeprefix("::") for node in nodes]
        assert facts["ops"][role] == Counter(names)
    assert facts["layers"] == json.loads((tiny_engine / QUANTIZATION_FILE).read_text())["layers"]


def test_inspect_text(tiny_engine: Path) -> None:
    shown = edgekiln("inspect", tiny_engine, "--layers").stdout
    short = edgekiln("inspect", tiny_engine).stdout
    assert shown.startswith(short)
    assert "quantization of each layer" not in short
    manifest = read_manifest(tiny_engine)
    assert f"{manifest.name} ({manifest.architecture.model_type}" in shown
    assert "DecoderLayers" in shown
    for name in (*manifest.files, *json.loads((tiny_engine / QUANTIZATION_FILE).read_text())["layers"]):
        assert name in shown


def test_inspect_says_how_large_states_are(tmp_path: Path) -> None:
    hybrid = write_engine(tmp_path / "hybrid", HybridDecoder.random())
    shown = edgekiln("inspect", hybrid).stdout
    # Two attention layers of 2 heads of 16; a convolution of 64 x 3 and two states of 4 x 16 x 16.
    assert "KV cache      shared-buffer, float32, 512 B a token\n" in shown
    assert "states        3, 8.96 kB a sequence, held twice and in up to 8 snapshots\n" in shown
    shown = edgekiln("inspect", write_engine(tmp_path / "recurrent", HybridDecoder.random(RECURRENT))).stdout
    assert "KV cache      none\n" in shown
    assert "states        2, 4.86 kB a sequence" in shown


def test_inspect_without_onnx(tiny_engine: Path) -> None:
    script = (
        "import sys\n"
        "sys.modules['onnx'] = None\n"
        "from edgekiln.cli import main\n"
        f"main(['inspect', {str(tiny_engine)!r}])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "not shown: install onnx to list them" in done.stdout


@pytest.mark.parametrize("command", ["bench", "eval", "inspect"])
def test_not_an_engine(tmp_path: Path, text: Path, command: str) -> None:
    more = ["--text", str(text)] if command == "eval" else []
    result = edgekiln(command, tmp_path / "nothing", *more)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert f"no engine directory at {tmp_path / 'nothing'}" in line
