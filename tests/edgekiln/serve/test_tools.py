"""Tool calls and reasoning, with a template like Qwen's, one without tools, and engines that write random text."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from edgekiln.pipeline.build import build_engine
from edgekiln.pipeline.options import BuildOptions
from edgekiln.sources.resolve import resolve
from support.models import save_checkpoint, tiny_tokenizer
from support.serving import HELLO, RunningServer, running_server

TEMPLATE = (
    "{% if tools %}<|system|>Tools: {{ tools | tojson }}, write <tool_call>{...}</tool_call><|end|>{% endif %}"
    "{% for message in messages %}<|{{ 'user' if message.role == 'tool' else message.role }}|>{{ message.content }}"
    "{% for call in message.tool_calls or [] %}<tool_call>{{ call.function.arguments.city }}</tool_call>{% endfor %}"
    "<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
THINKING = (
    "{% for message in messages %}<|{{ message.role }}|>"
    "{% if message.reasoning_content %}<think>{{ message.reasoning_content }}</think>{% endif %}{{ message.content }}"
    "<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{{ '<think>' if think else '' }}{% endif %}"
)
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 8}, "unit": {"enum": ["C", "F"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
TIME = {"type": "function", "function": {"name": "get_time"}}
# Whose template has tools, and no tools.
ENGINES = pytest.mark.parametrize("engine", ["tiny", "thinking"])
BODY: dict[str, Any] = {"model": "tiny", "messages": HELLO, "max_tokens": 400, "temperature": 1.0, "seed": 3}


def built(directory: Path, template: str) -> Path:
    """A random engine with a chat template."""
    save_checkpoint(directory / "checkpoint", "llama", max_position_embeddings=4096)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    tokenizer.save_pretrained(directory / "checkpoint")
    build_engine(resolve(str(directory / "checkpoint")), directory / "engine", BuildOptions(quant="int4"))
    return directory / "engine"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server of an engine whose template has tools, and one whose template has reasoning."""
    tiny = built(tmp_path_factory.mktemp("tools"), TEMPLATE)
    thinking = built(tmp_path_factory.mktemp("thinking"), THINKING)
    with running_server(("tiny", tiny), ("thinking", thinking)) as running:
        yield running


def check_weather(call: Any) -> None:
    arguments = json.loads(call.function.arguments)
    assert call.function.name == "get_weather"
    assert arguments.keys() == {"city", "unit"}
    assert arguments["unit"] in ("C", "F")


@ENGINES
def test_a_call_that_is_required(client: openai.OpenAI, engine: str) -> None:
    for choice in ("required", {"type": "function", "function": {"name": "get_weather"}}):
        answer = client.chat.completions.create(
            **BODY | {"model": engine}, tools=[WEATHER], tool_choice=choice, parallel_tool_calls=False
        ).choices[0]
        assert answer.finish_reason == "tool_calls"
        assert answer.message.content is None
        (call,) = answer.message.tool_calls
        assert call.id.startswith("call_")
        check_weather(call)


@ENGINES
def test_a_function_without_parameters(client: openai.OpenAI, engine: str) -> None:
    options = {"tools": [WEATHER, TIME], "tool_choice": {"type": "function", "function": {"name": "get_time"}}}
    answer = client.chat.completions.create(**BODY | {"model": engine}, **options).choices[0]
    assert [(call.function.name, json.loads(call.function.arguments)) for call in answer.message.tool_calls] == [
        ("get_time", {})
    ]


@ENGINES
def test_a_streamed_call(client: openai.OpenAI, engine: str) -> None:
    options = {**BODY, "model": engine, "tools": [WEATHER], "tool_choice": "required", "parallel_tool_calls": False}
    whole = client.chat.completions.create(**options).choices[0].message.tool_calls[0]
    parts = []
    for chunk in client.chat.completions.create(**options, stream=True):
        parts += chunk.choices[0].delta.tool_calls or []
    assert parts[0].function.name == "get_weather"
    assert parts[0].id
    assert all(part.index == 0 for part in parts)
    assert all(part.id is None and part.function.name is None for part in parts[1:])
    assert len(parts) > 3
    assert "".join(part.function.arguments for part in parts) == whole.function.arguments
    assert chunk.choices[0].finish_reason == "tool_calls"


@ENGINES
def test_calls_in_responses(client: openai.OpenAI, engine: str) -> None:
    tool = {"type": "function", **WEATHER["function"]}
    options = {"model": engine, "input": "Hello", "max_output_tokens": 400, "temperature": 1.0}
    options |= {"tools": [tool], "tool_choice": "required", "parallel_tool_calls": False, "extra_body": {"seed": 3}}
    response = client.responses.create(**options)
    (item,) = response.output
    assert (item.type, item.name, response.status) == ("function_call", "get_weather", "completed")
    assert json.loads(item.arguments).keys() == {"city", "unit"}
    events = list(client.responses.create(**options, stream=True))
    deltas = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    assert "".join(deltas) == item.arguments == events[-1].response.output[0].arguments
    output = {"type": "function_call_output", "call_id": item.call_id, "output": "sunny"}
    again = client.responses.create(
        model=engine, input=[{"role": "user", "content": "Hello"}, item.model_dump(), output], max_output_tokens=3
    )
    assert again.usage.input_tokens > response.usage.input_tokens - 400


def test_results_of_calls_go_into_the_prompt(server: RunningServer, client: openai.OpenAI) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'}}
    messages = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    ]
    usage = client.chat.completions.create(model="tiny", messages=messages, max_tokens=1).usage
    text = "<|user|>Hello<|end|><|assistant|><tool_call>Rome</tool_call><|end|><|user|>sunny<|end|>"
    text += "<|assistant|>"
    assert usage.prompt_tokens == server.post("/tokenize", {"content": text}).json()["count"]


def test_tools_that_the_template_does_not_have(server: RunningServer, client: openai.OpenAI) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'}}
    messages = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    ]
    count = client.chat.completions.create(model="thinking", messages=messages, max_tokens=1).usage.prompt_tokens
    text = '<|user|>Hello<|end|><|assistant|><tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n'
    text += '</tool_call><|end|><|user|><tool_response>\n{"name": "get_weather", "content": "sunny"}\n'
    text += "</tool_response><|end|><|assistant|>"
    assert count == server.post("/tokenize", {"content": text}).json()["count"]
    options = {"model": "thinking", "messages": messages, "tools": [WEATHER], "max_tokens": 1}
    assert client.chat.completions.create(**options).usage.prompt_tokens > count + 300
    assert client.chat.completions.create(**options, tool_choice="none").usage.prompt_tokens == count


def test_reasoning(server: RunningServer, client: openai.OpenAI) -> None:
    body = {**BODY, "model": "thinking"}
    options = {"extra_body": {"chat_template_kwargs": {"think": True}, "ignore_eos": True}}
    whole = client.chat.completions.create(**body | {"max_tokens": 30}, **options)
    answer = whole.choices[0]
    assert answer.message.content == ""
    assert answer.message.reasoning_content
    assert whole.usage.completion_tokens_details.reasoning_tokens > 20
    streamed = ""
    for chunk in client.chat.completions.create(**body | {"max_tokens": 30}, **options, stream=True):
        streamed += getattr(chunk.choices[0].delta, "reasoning_content", None) or ""
    assert streamed == answer.message.reasoning_content
    options["extra_body"] |= {"regex": "[a-z]{3}"}
    message = client.chat.completions.create(**body, **options).choices[0].message
    assert len(message.content) == 3
    turns = [*HELLO, {"role": "assistant", "content": "a", "reasoning_content": "hm"}, *HELLO]
    usage = client.chat.completions.create(model="thinking", messages=turns, max_tokens=1).usage
    text = "<|user|>Hello<|end|><|assistant|><think>hm</think>a<|end|><|user|>Hello<|end|><|assistant|>"
    assert usage.prompt_tokens == server.post("/tokenize", {"content": text}).json()["count"]


@ENGINES
def test_choices_that_are_free(server: RunningServer, engine: str) -> None:
    for choice in ("auto", "none", None):
        body = {**BODY, "model": engine, "max_tokens": 20, "tools": [WEATHER], "tool_choice": choice}
        response = server.post("/v1/chat/completions", body)
        assert response.status_code == 200
        assert response.json()["choices"][0]["message"].get("tool_calls") is None


@pytest.mark.parametrize("choice", ["required", "auto"])
def test_tools_exclude_forms(server: RunningServer, choice: str) -> None:
    response = server.post("/v1/chat/completions", {**BODY, "tools": [TIME], "tool_choice": choice, "regex": "a"})
    assert response.status_code == 400
