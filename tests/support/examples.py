"""The examples of README.md and docs: finding them, and a directory in which their commands run as they are printed.

In that directory, the models and engines that examples name are tiny ones. Of the programs that examples call,
`edgekiln` is the checkout's, and `serve` ends when it has answered a request; `pip` only checks that edgekiln has the
extras.
"""

import ast
import itertools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekiln.pipeline.build import build_engine
from edgekiln.pipeline.options import BuildOptions
from edgekiln.sources.resolve import resolve
from support.models import save_checkpoint

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_KEY = 50  # characters
_TOKENS = 20  # of the answers that Python examples begin


@dataclass(frozen=True)
class Example:
    """A code block.

    Attributes:
        document: name of its file.
        language: behind the three backticks; empty without one.
        text: its contents.
    """

    document: str
    language: str
    text: str

    @property
    def key(self) -> tuple[str, str]:
        """What tables of tests name it by: the document, and the beginning of its first line."""
        return self.document, self.text.splitlines()[0].partition("  #")[0].strip()[:_KEY]

    @property
    def commands(self) -> list[str]:
        """Its lines of shell, with those that end in a backslash joined; without comments and here-documents."""
        text = re.sub(r"<< '(\w+)'\n.*?^\1$", "", self.text, flags=re.MULTILINE | re.DOTALL)
        lines = re.sub(r"\\\n\s*", "", text).splitlines()
        return [line.partition("  #")[0].strip() for line in lines if line.strip() and not line.startswith("#")]


def examples() -> list[Example]:
    """All code blocks of the documents."""
    return [
        Example(path.relative_to(ROOT).as_posix(), language, text)
        for path in DOCUMENTS
        for language, text in _BLOCK.findall(path.read_text(encoding="utf-8"))
    ]


_EDGEKILN = """#!{python}
import os, json, signal, subprocess, sys, urllib.request
command = [sys.executable, "-m", "edgekiln", *sys.argv[1:]]
if sys.argv[1] != "serve":
    os.execv(sys.executable, command)
server = subprocess.Popen([*command, "--port", "0"], stderr=subprocess.PIPE, text=True)
for line in server.stderr:
    event = json.loads(line) if line.startswith("{{") else {{}}
    if event.get("event") == "listening":
        assert json.load(urllib.request.urlopen(event["url"] + "/v1/models"))["data"]
        break
else:
    sys.exit(server.wait() or 1)
server.send_signal(signal.SIGTERM)
server.stderr.read()
sys.exit(server.wait())
"""
# A link would not find the packages of a virtual environment.
_PYTHON = """#!/bin/sh
exec {python} "$@"
"""
_PIP = """#!{python}
import sys
sys.path.insert(0, {tests!r})
from support.pip_extras import check_pip
check_pip(" ".join(sys.argv))
"""


class Workspace:
    """The directory in which examples run.

    Attributes:
        path: of the directory.
    """

    def __init__(self, path: Path) -> None:
        """Put the models and engines there that examples name; `path` is made."""
        self.path = path
        first, *others = (path / name for name in ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-8B", "smollm2-135m"))
        save_checkpoint(first, "llama", max_position_embeddings=1024, num_hidden_layers=1)
        for model in others:
            shutil.copytree(first, model)
        engine = path / "engines" / "qwen"
        build_engine(resolve(str(first)), engine, BuildOptions(quant="int4"))
        for name in ("big", "smollm2-135m-int8", "smollm2-135m-int4"):
            shutil.copytree(engine, path / "engines" / name)
        (path / "TEXT").write_text("A kiln is an oven for bricks and pottery. " * 30, encoding="utf-8")
        (path / "person.json").write_text('{"type": "object", "properties": {"born": {"type": "integer"}}}')
        (path / "prompts.jsonl").write_text('{"prompt": "A kiln is"}\n{"prompt": "Bricks are"}\n', encoding="utf-8")
        (path / "bin").mkdir()
        for name, script in (("edgekiln", _EDGEKILN), ("pip", _PIP), ("python", _PYTHON)):
            program = path / "bin" / name
            program.write_text(script.format(python=sys.executable, tests=str(ROOT / "tests")))
            program.chmod(0o755)

    def shell(self, example: Example, **names: str) -> str:
        """Run a block of shell, and return what it printed.

        Args:
            example: the block.
            names: what stands for words of it, as PRESET="int4".
        """
        return self.script(self.local(example.text, **names))

    def script(self, text: str) -> str:
        """Run lines of shell that end at the first failure."""
        environment = {
            **os.environ,
            "PATH": f"{self.path / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
        }
        done = subprocess.run(
            ["sh", "-e", "-c", text],
            input="Hello\n",
            cwd=self.path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
        return done.stdout

    def local(self, text: str, **names: str) -> str:
        """A block with the tiny model in place of the built-in one, and other words in place of some."""
        text = re.sub(r"(?<![\w./-])smollm2-135m(?![\w-])", "./smollm2-135m", text)
        for name, value in names.items():
            text = re.sub(rf"\b{name}\b", value, text)
        return text

    def python(self, text: str, **variables: Any) -> dict[str, Any]:
        """Run a block of Python and the beginning of what its iterators yield, here; return its variables."""
        before = Path.cwd()
        os.chdir(self.path)
        try:
            for node in ast.parse(self.local(text)).body:
                if isinstance(node, ast.Expr):
                    value = eval(compile(ast.Expression(node.value), "example", "eval"), variables)
                    if isinstance(value, Iterator):
                        list(itertools.islice(value, _TOKENS))
                else:
                    exec(compile(ast.Module([node], []), "example", "exec"), variables)
        finally:
            os.chdir(before)
        return variables
