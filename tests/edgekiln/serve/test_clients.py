"""The clients of LangChain and LlamaIndex, as docs/serving.md shows them, with SmolLM2-135M behind the server."""

import re
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from support.serving import RunningServer, running_server

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("all_cores")]
DOCUMENT = Path(__file__).parents[3] / "docs" / "serving.md"
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)


def needs(package: str) -> pytest.MarkDecorator:
    """Skip a test where a package is missing, before an engine is built."""
    return pytest.mark.skipif(find_spec(package) is None, reason=f"{package} is not installed")


@pytest.fixture(scope="module")
def server(real_engine: Callable[[str], Path]) -> Iterator[RunningServer]:
    """A server of SmolLM2 in int8, named as in the document."""
    with running_server(("qwen", real_engine("int8"))) as running:
        yield running


def run_example(server: RunningServer, package: str) -> dict[str, Any]:
    """Run the example that imports a package; returns its names."""
    (code,) = [block for block in BLOCK.findall(DOCUMENT.read_text("utf-8")) if f"from {package}" in block]
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(code.replace("http://127.0.0.1:8080", server.url), DOCUMENT, "exec"), names)
    return names


@needs("langchain_openai")
def test_langchain(server: RunningServer, capsys: pytest.CaptureFixture[str]) -> None:
    names = run_example(server, "langchain_openai")
    answer, *_, called, mood = capsys.readouterr().out.splitlines()
    assert "Tokyo" in answer
    assert "'name': 'get_weather'" in called
    assert re.fullmatch("mood='(good|bad)'", mood)
    llm, tool = names["llm"], names["get_weather"]
    total: Any = None
    for chunk in llm.bind_tools([tool], tool_choice="get_weather").stream("What is the weather in Paris?"):
        total = chunk if total is None else total + chunk
    assert [call["name"] for call in total.tool_calls] == ["get_weather"]
    results = [
        {"role": "tool", "tool_call_id": call["id"], "content": tool(**call["args"])} for call in total.tool_calls
    ]
    assert llm.bind_tools([tool]).invoke(["What is the weather in Paris?", total, *results]).usage_metadata
    for method in ("json_schema", "function_calling"):
        assert llm.with_structured_output(names["Mood"], method=method).invoke("I am happy.").mood in ("good", "bad")
    assert "Tokyo" in llm.model_copy(update={"use_responses_api": True}).invoke("What is the capital of Japan?").text


@needs("llama_index")
def test_llama_index(server: RunningServer, capsys: pytest.CaptureFixture[str]) -> None:
    names = run_example(server, "llama_index")
    answer, *_, called = capsys.readouterr().out.splitlines()
    assert "Tokyo" in answer
    assert called.startswith("It is sunny in")
    llm, tool = names["llm"], names["tool"]
    (call,) = llm.get_tool_calls_from_response(
        llm.chat_with_tools([tool], "What is the weather?", tool_choice="get_weather")
    )
    assert (call.tool_name, call.tool_kwargs.keys()) == ("get_weather", {"city"})
    for part in llm.stream_chat_with_tools([tool], "What is the weather?", tool_required=True):
        last = part
    assert llm.get_tool_calls_from_response(last)[0].tool_name == "get_weather"
    assert llm.chat_with_tools([tool], "What is the weather?").message is not None
