"""Every block of shell and Python in README.md and docs runs as it is printed, or is on a list that says why not."""

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Callable

import pytest

import edgekiln
from edgekiln.calib.recipe import read_recipe
from support.examples import ROOT, Example, Workspace, examples
from support.pip_extras import check_pip
from support.serving import running_server

EXAMPLES = {example.key: example for example in examples()}
RUNNABLE = {"sh", "bash", "console", "shell", "python", "yaml"}
# Blocks that other tests run.
ELSEWHERE = {
    ("README.md", "import edgekiln"): "tests/test_readme.py",
    **{key: "tests/test_python_document.py" for key in EXAMPLES if key[0] == "docs/python.md"},
    ("docs/serving.md", "from typing import Literal"): "tests/edgekiln/serve/test_clients.py",
    ("docs/serving.md", "from llama_index.core.llms import ChatMessage"): "tests/edgekiln/serve/test_clients.py",
}
# What cannot run in these tests. test_what_does_not_run_exists checks that what the blocks name exists.
_MAKE = "installs environments, and runs these tests"
_BENCH = "takes minutes to hours, and other engines; its figures are the point"
_GPU = "needs an NVIDIA GPU"
_MEASURES = re.compile("make |python -m bench")
_NETWORK = "needs a network"
_BUILD = "compiles libedgekiln: make cpp and tests/cpp do"
NOT_RUN = {
    **{(name, text): _BENCH for name, text in EXAMPLES if name == "docs/performance.md" and _MEASURES.match(text)},
    ("README.md", "make engine"): _MAKE,
    (
        "docs/embedding.md",
        "pip install 'edgekiln[cpu]'",
    ): "needs a wheel: make test-wheels builds against one",
    ("docs/embedding.md", "make cpp"): _BUILD,
    ("docs/embedding.md", "cmake -S cpp -B build/cpp -D EDGEKILN_HOST=ON -D O"): _BUILD,
    ("docs/embedding.md", "dpkg --add-architecture arm64 && apt-get update"): _NETWORK,
    ("docs/kernels.md", "cmake -S cpp -B build/cpp -G Ninja && ninja -C bui"): _BUILD,
    ("docs/lm-eval.md", "pip install -e '.[lm-eval]'"): _NETWORK,
    ("docs/lm-eval.md", "from lm_eval import simple_evaluate"): _NETWORK,
    ("docs/vllm.md", "pip install -e '.[calib]'"): "needs llm-compressor, which has an environment of its own",
    ("docs/vllm.md", "vllm serve qwen3-8b-w4a16 --tensor-parallel-size 4"): _GPU,
    ("docs/vllm.md", "vllm serve qwen3-8b-w4a16 --tensor-parallel-size 8"): _GPU,
    ("docs/performance.md", "edgekiln engine smollm2-135m --target ort-cuda --q"): _GPU,
    ("docs/performance.md", "python -m bench.suites.gpu_model m1b --tokenizer e"): _GPU,
}

Runner = Callable[[Workspace, Example], None]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("examples") / "workspace")


def in_shell(**names: str) -> Runner:
    """Run a block of shell with other words in place of some."""

    def run(workspace: Workspace, example: Example) -> None:
        workspace.shell(example, **names)

    return run


def in_python(workspace: Workspace, example: Example) -> None:
    """Run a block of Python with the variables that the text around it speaks of."""
    engine = edgekiln.Engine.open(workspace.path / "engines" / "qwen")
    workspace.python(example.text, engine=engine, messages=[{"role": "user", "content": "What is a kiln?"}])


def with_server(workspace: Workspace, example: Example) -> None:
    """Run a block that talks to `edgekiln serve engines/qwen` on port 8080."""
    with running_server(("qwen", workspace.path / "engines" / "qwen")) as server:
        text = example.text.replace("http://127.0.0.1:8080", server.url)
        assert text != example.text
        if example.language == "python":
            workspace.python(text)
        else:
            assert '"choices"' in workspace.script(text)


def read_as_recipe(workspace: Workspace, example: Example) -> None:
    """Read a block of YAML as a recipe file."""
    path = workspace.path / "recipe.yaml"
    path.write_text(example.text, encoding="utf-8")
    read_recipe(path)


def for_tensorrt(**names: str) -> Runner:
    """As `in_shell`, where TensorRT-RTX is installed."""

    def run(workspace: Workspace, example: Example) -> None:
        pytest.importorskip("tensorrt_rtx")
        workspace.shell(example, **names)

    return run


FAST: dict[tuple[str, str], Runner] = {
    ("README.md", "pip install 'edgekiln[cpu]'"): in_shell(),
    ("README.md", "edgekiln engine Qwen/Qwen3-0.6B --quant int4 -o en"): in_shell(),
    ("docs/chat.md", "edgekiln run ENGINE --chat --jsonl prompts.jsonl -"): in_shell(ENGINE="engines/qwen"),
    ("docs/chat.md", 'engine.chat(messages, tools=[{"type": "function", '): in_python,
    ("docs/quantization.md", "method: gptq"): read_as_recipe,
    ("docs/quantization.md", "from pathlib import Path"): in_python,
    ("docs/serving.md", "pip install 'edgekiln[cpu,serve]'"): in_shell(),
    ("docs/serving.md", "curl http://127.0.0.1:8080/v1/chat/completions -H "): with_server,
    ("docs/serving.md", "import openai"): with_server,
    ("docs/structured-output.md", "edgekiln run engines/qwen --chat --json-schema per"): in_shell(),
    ("docs/structured-output.md", 'engine.generate("Is the sky blue? ", regex="(yes|n'): in_python,
}
SLOW: dict[tuple[str, str], Runner] = {
    ("docs/quantization.md", "edgekiln engine smollm2-135m --quant PRESET -o ENG"): in_shell(PRESET="int4"),
    ("docs/quantization.md", "edgekiln engine smollm2-135m --target trt-rtx --qu"): for_tensorrt(Q="int4"),
    ("docs/targets.md", "pip install -e '.[cpu,export,trt-rtx]'"): for_tensorrt(),
    # int8, as this transformers refuses the zero points of int4.
    ("docs/vllm.md", "edgekiln engine smollm2-135m --quant PRESET -o ENG"): in_shell(PRESET="int8"),
}


def test_every_block_runs_or_says_why_not() -> None:
    known = [*FAST, *SLOW, *NOT_RUN, *ELSEWHERE]
    assert len(known) == len(set(known))
    blocks = [example for example in examples() if example.language in RUNNABLE]
    assert len(blocks) == len({block.key for block in blocks}), "two blocks of a document begin alike"
    assert [block.key for block in blocks if block.key not in known] == [], "neither run nor on the list"
    assert sorted(set(known) - {block.key for block in blocks}) == [], "these are not in the documents"


def test_blocks_of_commands_have_a_language() -> None:
    command = re.compile(r"^(\$ )?(edgekiln|make|cmake|python|pip|curl|apt-get|git) ", re.MULTILINE)
    for example in examples():
        assert example.language or not command.search(example.text), example


@pytest.mark.parametrize("language", ["c", "cpp"])
def test_other_languages_are_compiled(language: str) -> None:
    documents = {example.document for example in examples() if example.language == language}
    assert documents == {"docs/embedding.md"}
    assert f"```{language}" in (ROOT / "tests" / "cpp" / "test_abi.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("key", FAST, ids=" ".join)
def test_block(key: tuple[str, str], workspace: Workspace) -> None:
    if "curl" in key[1] and shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    FAST[key](workspace, EXAMPLES[key])


@pytest.mark.slow
@pytest.mark.parametrize("key", SLOW, ids=" ".join)
def test_slow_block(key: tuple[str, str], workspace: Workspace) -> None:
    SLOW[key](workspace, EXAMPLES[key])


@pytest.mark.parametrize("key", NOT_RUN, ids=" ".join)
def test_what_does_not_run_exists(key: tuple[str, str]) -> None:
    for command in EXAMPLES[key].commands if EXAMPLES[key].language == "sh" else ():
        if command.startswith("make "):
            make = [*command.partition(" && ")[0].split("BENCH_ARGS")[0].split(), "-n"]
            done = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
        if module := re.search(r"python -m ([\w.]+)", command):
            assert importlib.util.find_spec(module[1]), command
        if command.startswith("pip install"):
            check_pip(command)
        for script in re.findall(r"\bbench/[\w/]+\.sh\b", command):
            assert (ROOT / script).is_file()
