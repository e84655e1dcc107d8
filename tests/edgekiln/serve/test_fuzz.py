"""Bodies that hypothesis makes: the server answers them or refuses them, and never fails.

More cases, such as for ten minutes: EDGEKILN_FUZZ_SECONDS=600 python -m pytest tests/edgekiln/serve/test_fuzz.py
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from edgekiln.serve.schemas.chat import ChatRequest
from edgekiln.serve.schemas.completions import CompletionRequest, DetokenizeRequest, TokenizeRequest
from edgekiln.serve.schemas.fields import CHAT, COMPLETIONS, RESPONSES
from edgekiln.serve.schemas.responses import ResponsesRequest
from support.serving import RunningServer, running_server, wait_until

SECONDS = float(os.environ.get("EDGEKILN_FUZZ_SECONDS", "0"))
SETTINGS = settings(
    max_examples=1000 if SECONDS else 80,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    derandomize=not SECONDS,
)
# Path, its fields, and a body that is right.
ROUTES: dict[str, tuple[list[str], dict[str, Any]]] = {
    "/v1/chat/completions": (
        [*ChatRequest.model_fields, *CHAT],
        {"messages": [{"role": "user", "content": "a"}]},
    ),
    "/v1/completions": ([*CompletionRequest.model_fields, *COMPLETIONS], {"prompt": "a"}),
    "/v1/responses": ([*ResponsesRequest.model_fields, *RESPONSES], {"input": "a"}),
    "/tokenize": (list(TokenizeRequest.model_fields), {"content": "a"}),
    "/detokenize": (list(DetokenizeRequest.model_fields), {"tokens": [1]}),
    "/v1/embeddings": (["input", "model"], {"input": "a"}),
}
# Texts that mean something somewhere.
_WORDS = """
type text role user system assistant tool developer content name function parameters arguments id call_id output tiny
tool_calls json_schema json_object schema object string integer array properties required enum items $ref #/$defs/a auto
none function_call function_call_output message reasoning input_text output_text summary image_url format effort
include_usage additionalProperties anyOf pattern minLength start: [a-z]+ ( \\ <|end|> 0 1 -1 é 日本
"""
WORDS = st.sampled_from([*_WORDS.split(), "", "\0"])
NUMBERS = st.integers(-5, 30) | st.integers() | st.floats(-3, 3) | st.floats(allow_nan=False, allow_infinity=False)
LEAVES = st.none() | st.booleans() | NUMBERS | WORDS | st.text(max_size=8)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS | st.text(max_size=4), inner, max_size=5),
    max_leaves=12,
)


def bodies(path: str) -> SearchStrategy[dict[str, Any]]:
    """A right body with some fields of any value."""
    fields, right = ROUTES[path]
    changes = st.dictionaries(st.sampled_from(fields), VALUES, max_size=4)
    return changes.map(lambda changed: {**right, **changed})


def messages() -> SearchStrategy[list[Any]]:
    """Messages that are nearly right."""
    keys = st.sampled_from(["role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content", "type"])
    message = st.dictionaries(keys, VALUES, max_size=4)
    roles = st.sampled_from(["user", "assistant", "tool", "system"])
    return st.lists(
        st.tuples(roles, message).map(lambda pair: {"role": pair[0], "content": "a", **pair[1]}), max_size=3
    )


@pytest.fixture(scope="module")
def server(long_llama: Path) -> Iterator[RunningServer]:
    """A server of short answers."""
    with running_server(("tiny", long_llama), max_tokens=3, slots=8, queue=200) as running:
        yield running


def check(server: RunningServer, path: str, content: bytes) -> None:
    """The response is a success or names a mistake of the request."""
    response = server.http.post(path, content=content, headers={"content-type": "application/json"})
    assert response.status_code in (200, 400, 404), (path, content, response.text)
    if response.status_code != 200:
        error = response.json()["error"]
        assert isinstance(error["message"], str)
        assert error["type"] == "invalid_request_error"
    elif response.headers["content-type"].startswith("text/event-stream"):
        # A stream that has begun ends with its last event, not with an error of the server.
        assert '"server_error"' not in response.text, (path, content, response.text)


def repeat(case: Callable[[], None], seconds: float) -> None:
    """Run a test of hypothesis once, and again for `seconds`."""
    end = time.monotonic() + seconds
    case()
    while time.monotonic() < end:
        case()


@pytest.mark.parametrize("path", ROUTES)
def test_bodies(server: RunningServer, path: str) -> None:
    raw = st.binary(max_size=40) | st.text(max_size=40).map(str.encode)
    structured = bodies(path)
    if path == "/v1/chat/completions":
        structured |= messages().map(lambda value: {"messages": value})
    elif path == "/v1/responses":
        structured |= messages().map(lambda value: {"input": value})

    @SETTINGS
    @given(structured.map(lambda body: json.dumps(body).encode()) | raw)
    def case(content: bytes) -> None:
        check(server, path, content)

    repeat(case, SECONDS / 8)
    wait_until(lambda: server.busy == 0)
    assert server.events("error") == []


def test_grammars_and_schemas(server: RunningServer) -> None:
    form = st.one_of(
        st.text(max_size=20).map(lambda text: {"regex": text}),
        st.text(max_size=20).map(lambda text: {"grammar": f"start: {text}"}),
        VALUES.map(
            lambda schema: {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}}
        ),
        VALUES.map(lambda schema: {"tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}]}),
    )

    @SETTINGS
    @given(form, st.booleans())
    def case(fields: dict[str, Any], stream: bool) -> None:
        body = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 3, "stream": stream, **fields}
        check(server, "/v1/chat/completions", json.dumps(body).encode())

    repeat(case, SECONDS / 4)
    wait_until(lambda: server.busy == 0)
