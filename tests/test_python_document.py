"""The blocks of docs/python.md run one after another, with a small engine in place of their own."""

import json
import re
from pathlib import Path

import pytest

import edgekiln

DOCUMENT = Path(__file__).parents[1] / "docs" / "python.md"


def test_the_blocks_run(
    tiny_engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    program, paths = re.subn(r'"engines/[^"]*"', repr(str(tiny_engine)), "\n".join(blocks))
    assert paths == 1
    names: dict[str, object] = {}
    exec(compile(program, str(DOCUMENT), "exec"), names)
    printed = capsys.readouterr().out
    assert "there is no option 'temprature': did you mean temperature?" in printed
    assert re.search(r"^20 greeting ", printed, re.MULTILINE)
    assert "21 None max_tokens must be at least 1, got 0" in printed
    assert "20 requests, 0 errors" in printed
    assert json.loads((tmp_path / "chat.json").read_text())["messages"][0]["content"] == "You are a pirate."
    answers = names["answers"]
    assert isinstance(answers, list)
    engine = edgekiln.Engine.open(tiny_engine)
    expected = ["".join(token.text for token in engine.generate(f"{i} plus {i} is", max_tokens=4)) for i in range(20)]
    assert [answer["text"] for answer in answers] == expected


def test_the_methods_that_it_names_exist() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    for owner, variable in ((edgekiln.Engine, "engine"), (edgekiln.Session, "session")):
        for name in re.findall(rf"\b{variable}\.(\w+)", text):
            assert hasattr(owner, name), name
