"""Quality that a build measures: report.json has the numbers of `edgekiln eval`."""

import hashlib
import json
from pathlib import Path

import pytest

from edgekiln.engine.manifest import read_manifest
from edgekiln.engine.reports import read_report
from support.command import edgekiln

TEXT = "The quick brown fox jumps over the lazy dog, and the dog does not mind. " * 3


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "fox.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_report_has_the_numbers_of_eval(tiny_checkpoint: Path, text: Path, tmp_path: Path) -> None:
    engine = tmp_path / "engine"
    arguments = ("--quant", "int4", "--max-length", "64", "--eval-text", text, "--eval-tokens", "100")
    built = edgekiln("engine", tiny_checkpoint, "-o", engine, *arguments)
    assert built.exit_code == 0, built.output
    read_manifest(engine)
    quality = read_report(engine).quality
    assert quality is not None
    shown = edgekiln(
        *("eval", engine, "--text", text, "--window", "64", "--max-tokens", "100"),
        *("--reference", tiny_checkpoint, "--json"),
    )
    result = json.loads(shown.stdout)
    assert (quality.text, quality.window, quality.tokens) == ("fox.txt", 64, result["tokens"])
    assert quality.sha256 == hashlib.sha256(TEXT.encode()).hexdigest()
    assert quality.perplexity_before == pytest.approx(result["reference_perplexity"], rel=1e-6)
    assert quality.perplexity_after == pytest.approx(result["perplexity"], rel=1e-6)
    assert quality.kl_divergence == pytest.approx(result["kl_divergence"], rel=1e-6)
    assert quality.same_top == result["same_top"]
    assert quality.kl_divergence > 0
    last = built.stdout.splitlines()[-1]
    assert last.startswith(f"perplexity {quality.perplexity_before:.5g} in float32, {quality.perplexity_after:.5g} now")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file or directory"),
        (b"", "fox.txt has 0 tokens: give a text with at least 2"),
        (b"caf\xe9", "is not UTF-8 text (byte 3)"),
    ],
    ids=["missing", "empty", "latin-1"],
)
def test_an_unusable_text_fails_before_the_build(
    tiny_checkpoint: Path, text: Path, tmp_path: Path, content: bytes | None, message: str
) -> None:
    text.unlink() if content is None else text.write_bytes(content)
    result = edgekiln("engine", tiny_checkpoint, "-o", tmp_path / "engine", "--quant", "int4", "--eval-text", text)
    assert result.exit_code == 2
    *_, line = result.stderr.splitlines()  # after the steps that were done
    assert message in line
    assert not (tmp_path / "engine").exists()
