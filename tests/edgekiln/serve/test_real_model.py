"""SmolLM2-135M behind the server."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema
import openai
import pytest

from support.serving import RunningServer, running_server

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("all_cores")]
JAPAN = [{"role": "user", "content": "What is the capital of Japan?"}]
TEXT = {"type": "string", "pattern": "^[A-Za-z ]{1,20}$"}
CITY = {"enum": ["Paris", "Rome", "Oslo"]}
# Schemas that are put into each other.
LEAVES: list[dict[str, Any]] = [
    TEXT,
    {"type": "integer", "minimum": 0, "maximum": 120},
    {"type": "number", "minimum": -1, "maximum": 1},
    {"type": "boolean"},
    {"type": "null"},
    {"enum": ["red", "green", 3, None]},
    {"const": "fixed"},
    {"type": "string", "maxLength": 12},
    {"type": "string", "format": "date"},
    {"anyOf": [{"type": "integer", "minimum": 5, "maximum": 9}, TEXT]},
]


def record(**properties: dict[str, Any]) -> dict[str, Any]:
    """A schema of an object with these properties, all of them required."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def schemas() -> Iterator[dict[str, Any]]:
    """100 schemas of rising difficulty."""
    for index, leaf in enumerate(LEAVES):
        other = LEAVES[(index + 3) % len(LEAVES)]
        yield record(value=leaf)
        yield record(first=leaf, second=other)
        yield record(values={"type": "array", "items": leaf, "minItems": 1, "maxItems": 3})
        yield record(inner=record(name=TEXT, value=leaf))
        yield {**record(name=TEXT, more=leaf), "required": ["name"]}
        yield record(rows={"type": "array", "items": record(key=TEXT, value=leaf), "minItems": 2, "maxItems": 2})
        yield {**record(a={"$ref": "#/$defs/leaf"}, b={"$ref": "#/$defs/leaf"}), "$defs": {"leaf": leaf}}
        yield record(either={"anyOf": [record(left=leaf), record(right=other)]})
        yield record(pair={"type": "array", "prefixItems": [leaf, other], "items": False, "minItems": 2})
        yield record(a=record(b=record(c=record(d=leaf), e=other)), f={"type": "array", "items": leaf, "maxItems": 2})


@pytest.fixture(scope="module")
def server(real_engine: Callable[[str], Path]) -> Iterator[RunningServer]:
    """A server of SmolLM2 in int4."""
    with running_server(("smollm2", real_engine("int4")), slots=8, queue=200) as running:
        yield running


def test_it_answers(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="smollm2", messages=JAPAN, temperature=0)
    assert "Tokyo" in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    chunks = client.chat.completions.create(model="smollm2", messages=JAPAN, temperature=0, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == answer.choices[0].message.content
    assert client.responses.create(model="smollm2", input=JAPAN, temperature=0).output_text == text


def test_a_system_prompt_is_computed_once(client: openai.OpenAI) -> None:
    system = {"role": "system", "content": "You answer questions about geography. " * 30}
    cached = []
    for country in ("Japan", "France"):
        messages = [system, {"role": "user", "content": f"What is the capital of {country}?"}]
        usage = client.chat.completions.create(model="smollm2", messages=messages, max_tokens=5).usage
        cached.append(usage.prompt_tokens_details.cached_tokens)
    assert cached[1] > 100 > cached[0]


def test_100_schemas(client: openai.OpenAI) -> None:
    def answer(schema: dict[str, Any]) -> str:
        form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
        messages = [{"role": "user", "content": f"Make up data as JSON that fits {json.dumps(schema)}"}]
        choice = client.chat.completions.create(
            model="smollm2", messages=messages, response_format=form, temperature=1.0, seed=1, max_tokens=1500
        ).choices[0]
        assert choice.finish_reason == "stop", (schema, choice.message.content[-200:])
        return choice.message.content

    every = list(schemas())
    assert len(every) == 100
    with ThreadPoolExecutor(16) as pool:
        for schema, text in zip(every, pool.map(answer, every), strict=True):
            jsonschema.validate(json.loads(text), schema, format_checker=jsonschema.FormatChecker())


def test_tools(client: openai.OpenAI) -> None:
    """The chat template of the model has none."""
    tools = [
        {"type": "function", "function": {"name": name, "parameters": record(city=CITY)}}
        for name in ("get_weather", "get_time")
    ]
    messages: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]
    options: dict[str, Any] = {"model": "smollm2", "temperature": 0, "tools": tools, "max_tokens": 700}
    for choice in ("required", {"type": "function", "function": {"name": "get_weather"}}):
        answer = client.chat.completions.create(**options, messages=messages, tool_choice=choice).choices[0]
        assert answer.finish_reason == "tool_calls"
        assert len(answer.message.tool_calls) <= 16
        for call in answer.message.tool_calls:
            assert call.function.name in ("get_weather", "get_time")
            jsonschema.validate(json.loads(call.function.arguments), record(city=CITY))
    assert [call.function.name for call in answer.message.tool_calls] == ["get_weather"]
    results = [{"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in answer.message.tool_calls]
    final = client.chat.completions.create(**options, messages=[*messages, answer.message, *results]).choices[0]
    assert final.message.content or final.message.tool_calls
    earlier: list[Any] = []  # which show the model what to write
    for city in ("Rome", "Oslo", "Paris"):
        function = {"name": "get_weather", "arguments": json.dumps({"city": city})}
        earlier.append({"role": "user", "content": f"Weather in {city}?"})
        earlier.append({"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": function}]})
    answer = client.chat.completions.create(**options, messages=earlier[:-1]).choices[0]
    assert [call.function.to_dict() for call in answer.message.tool_calls] == [function]
    answer = client.chat.completions.create(**options, messages=earlier[:-1], tool_choice="none").choices[0]
    assert answer.message.tool_calls is None


def test_32_streams_at_the_same_time(client: openai.OpenAI) -> None:
    def answer(index: int) -> str:
        messages = [{"role": "user", "content": f"Tell me a story about the number {index}."}]
        options = {"model": "smollm2", "messages": messages, "max_tokens": 40, "temperature": 0.7, "seed": index}
        chunks = client.chat.completions.create(**options, stream=True)
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

    alone = [answer(index) for index in range(32)]
    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(answer, range(32))) == alone
