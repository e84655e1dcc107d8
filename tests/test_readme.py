"""The Python example of README.md runs as it is printed, with a small engine in place of its own."""

import re
from pathlib import Path

import pytest

import edgekiln

README = Path(__file__).parents[1] / "README.md"


def test_python_example(
    tiny_checkpoint: Path, tiny_engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = re.findall(r"```python\n(import edgekiln\n.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len([line for line in example.splitlines() if line]) <= 5
    builds = "edgekiln.build(" in example
    engine = tmp_path / "engine" if builds else tiny_engine
    program, paths = re.subn(r'"engines/[^"]*"', repr(str(engine)), example)
    if builds:
        program = re.sub(r'edgekiln\.build\("[^"]*"', f"edgekiln.build({str(tiny_checkpoint)!r}", program)
    assert paths == 1
    exec(compile(program, str(README), "exec"), {})
    messages = [{"role": "user", "content": "What is the capital of Japan?"}]
    expected = "".join(token.text for token in edgekiln.Engine.open(engine).chat(messages))
    assert capsys.readouterr().out == expected != ""
