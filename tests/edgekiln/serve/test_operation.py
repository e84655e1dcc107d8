"""What operators rely on: keys, limits, the queue, cancellation, timeouts, logs and metrics."""

import contextlib
import json
import re
import socket
import threading
import time
from pathlib import Path

import httpx
import openai
import pytest

from support.serving import HELLO, LONG, RunningServer, running_server, wait_until

CHAT = "/v1/chat/completions"
BODY = {"messages": HELLO, **LONG}


@pytest.fixture(scope="module")
def guarded(long_llama: Path):
    """A server with keys and narrow limits."""
    with running_server(
        ("tiny", long_llama),
        slots=1,
        queue=1,
        api_keys=("first", "second"),
        max_body=2000,
        max_tokens=3500,
        cors_origins=("https://example.org",),
        header_timeout_s=0.5,
        max_connections=20,
    ) as running:
        running.http.headers["authorization"] = "Bearer first"
        yield running


def test_keys(guarded: RunningServer) -> None:
    for key in ("first", "second"):
        assert guarded.client(api_key=key).models.list().data
    with pytest.raises(openai.AuthenticationError) as caught:
        guarded.client(api_key="third").models.list()
    assert caught.value.code == "invalid_api_key"
    for headers in ({}, {"authorization": "first"}, {"authorization": "Basic first"}, {"authorization": "Bearer"}):
        with httpx.Client(base_url=guarded.url, headers=headers) as http:
            for path in ("/v1/models", "/metrics", "/nothing", "/v1/../health/../metrics"):
                assert http.get(path).status_code == 401
            assert http.post(CHAT, json=BODY).status_code == 401
            assert http.get("/health").status_code == 200
            assert http.get("/").status_code == 200


def test_bodies_that_are_too_large(guarded: RunningServer) -> None:
    body = {"messages": [{"role": "user", "content": "a" * 3000}]}
    assert guarded.post(CHAT, body).status_code == 413

    def parts():
        for _ in range(50):
            yield b"a" * 100

    response = guarded.http.post(CHAT, content=parts(), headers={"content-type": "application/json"})
    assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")
    assert guarded.http.get("/health").status_code == 200


def test_the_limit_of_tokens(guarded: RunningServer) -> None:
    response = guarded.post(CHAT, {"messages": HELLO, "max_tokens": 3501})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "max_tokens")
    usage = guarded.post(CHAT, {"messages": HELLO, "ignore_eos": True}).json()["usage"]
    assert usage["completion_tokens"] == 3500


def test_a_full_queue(guarded: RunningServer) -> None:
    with contextlib.ExitStack() as stack:
        for busy in (1, 2):
            stack.enter_context(guarded.http.stream("POST", CHAT, json={**BODY, "stream": True}))
            wait_until(lambda busy=busy: guarded.busy == busy)
        response = guarded.post(CHAT, BODY)
        assert response.status_code == 429, response.text
        assert int(response.headers["retry-after"]) >= 1
        assert response.json()["error"]["type"] == "rate_limit_error"
        with pytest.raises(openai.RateLimitError):
            guarded.client(api_key="first").chat.completions.create(model="tiny", messages=HELLO)
    wait_until(lambda: guarded.busy == 0)


def test_cors(guarded: RunningServer) -> None:
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
    response = guarded.http.options(CHAT, headers={"origin": "https://example.org", **asked})
    assert (response.status_code, response.headers["access-control-allow-origin"]) == (200, "https://example.org")
    response = guarded.http.options(CHAT, headers={"origin": "https://example.com", **asked})
    assert "access-control-allow-origin" not in response.headers


def test_there_is_no_cors_by_default(server: RunningServer) -> None:
    response = server.http.get("/health", headers={"origin": "https://example.org"})
    assert not [name for name in response.headers if name.startswith("access-control")]


def test_headers_that_do_not_come(guarded: RunningServer) -> None:
    address = guarded.http.base_url
    with socket.create_connection((address.host, address.port)) as connection:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n")
        connection.settimeout(5)
        assert connection.recv(100) == b""


def test_a_body_that_does_not_come(guarded: RunningServer) -> None:
    address = guarded.http.base_url
    with socket.create_connection((address.host, address.port)) as connection:
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer first\r\n"
        connection.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{{".encode())
        connection.settimeout(5)
        assert connection.recv(100).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize(
    "head", [b"a" * 200_000, b"GET / HTTP/1.1\r\nX: " + b"a" * 200_000, b"\x16\x03\x01\x02\x00\r\n\r\n"]
)
def test_what_is_no_http(guarded: RunningServer, head: bytes) -> None:
    address = guarded.http.base_url
    with socket.create_connection((address.host, address.port)) as connection:
        connection.settimeout(5)
        with contextlib.suppress(ConnectionError):
            connection.sendall(head)
            answer = connection.recv(100)
            assert answer in (b"",) or answer.startswith(b"HTTP/1.1 400")
    assert guarded.http.get("/health").status_code == 200


def test_a_client_that_does_not_read(guarded: RunningServer) -> None:
    address = guarded.http.base_url
    body = json.dumps({"messages": HELLO, "stream": True, "ignore_eos": True, "logprobs": True, "top_logprobs": 20})
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer first\r\n"
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((address.host, address.port))
        connection.sendall(
            head + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body.encode()
        )
        wait_until(lambda: guarded.busy == 1)
        wait_until(lambda: guarded.busy == 0 and guarded.server.running == 0, 20)


def test_too_many_connections(guarded: RunningServer) -> None:
    address = guarded.http.base_url
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(socket.create_connection((address.host, address.port))) for _ in range(30)]
        connections[-1].settimeout(5)
        with contextlib.suppress(ConnectionResetError):
            assert connections[-1].recv(100) == b""
    wait_until(lambda: guarded.http.get("/health").status_code == 200)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_ends_its_answer(server: RunningServer, stream: bool) -> None:
    done = server.server.engines.stats()[0][1].generated_tokens
    with httpx.Client(base_url=server.url) as http:
        if stream:
            with http.stream("POST", CHAT, json={**BODY, "n": 3, "stream": True}) as response:
                next(response.iter_bytes())
        else:
            with pytest.raises(httpx.ReadTimeout):
                http.post(CHAT, json={**BODY, "n": 3}, timeout=0.15)
    wait_until(lambda: server.busy == 0, 3)
    assert server.server.engines.stats()[0][1].generated_tokens - done < 3 * 3000
    wait_until(lambda: bool(server.events("request")) and server.events("request")[-1].get("finish") == "client_gone")


def test_openai_clients_end_streams(server: RunningServer, client: openai.OpenAI) -> None:
    with client.chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=3000, stream=True, extra_body={"ignore_eos": True}
    ) as stream:
        for _, _ in zip(range(5), stream, strict=False):
            pass
    wait_until(lambda: server.busy == 0, 3)


def test_requests_at_the_same_time_do_not_mix(server: RunningServer, client: openai.OpenAI) -> None:
    def answer(text: str) -> str:
        messages = [{"role": "user", "content": text}]
        options = {"max_tokens": 40, "extra_body": {"ignore_eos": True}}
        return client.chat.completions.create(model="tiny", messages=messages, **options).choices[0].message.content

    alone = [answer(f"Message {index}") for index in range(8)]
    together: dict[int, str] = {}
    threads = [
        threading.Thread(target=lambda index=index: together.update({index: answer(f"Message {index}")}))
        for index in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[index] for index in range(8)] == alone


def test_a_request_that_takes_too_long(long_llama: Path) -> None:
    with running_server(("tiny", long_llama), timeout_s=0.2) as running:
        response = running.post(CHAT, {**BODY, "n": 4})
        assert (response.status_code, response.json()["error"]["code"]) == (504, "timeout")
        assert response.headers["x-should-retry"] == "false"
        with pytest.raises(openai.APIError, match="longer than"):
            for _ in running.client().chat.completions.create(
                model="tiny", messages=HELLO, stream=True, n=4, extra_body={"ignore_eos": True}
            ):
                pass
        wait_until(lambda: running.busy == 0)


def test_the_host_header(long_llama: Path) -> None:
    with running_server(("tiny", long_llama), check_host=True) as running:
        for host in ("localhost", "localhost:1", "127.0.0.1:8080", "[::1]:80", "[::1]", "a.localhost"):
            assert running.http.get("/v1/models", headers={"host": host}).status_code == 200, host
        for host in ("evil.example", "evil.example:8080", "127.0.0.1.evil.example", "localhost.evil.example:80", ""):
            assert running.http.get("/v1/models", headers={"host": host}).status_code == 403, host


def test_headers_of_responses(server: RunningServer) -> None:
    ids = {server.http.get("/health").headers["x-request-id"] for _ in range(3)}
    assert len(ids) == 3
    headers = server.http.get("/nothing").headers
    assert headers["x-content-type-options"] == "nosniff"
    assert "server" not in headers


def test_the_log_has_no_text(server: RunningServer) -> None:
    secret = "a secret 4711"
    server.post(CHAT, {"messages": [{"role": "user", "content": secret}], "max_tokens": 2, "user": secret})
    server.post(CHAT, {"messages": [{"role": "user", "content": secret, "x": 1}]})
    wait_until(lambda: server.events("request")[-1].get("error") == "unknown_parameter")
    line = server.events("request")[-2]
    assert line["status"] == 200
    assert (line["model"], line["completion_tokens"], line["path"]) == ("tiny", 2, CHAT)
    assert line["id"].startswith("req_")
    assert line["first_token_s"] <= line["seconds"]
    assert secret not in str(server.events("request"))


def test_the_log_has_prompts_where_they_are_wanted(long_llama: Path) -> None:
    with running_server(("tiny", long_llama), log_prompts=True) as running:
        running.post(CHAT, {"messages": HELLO, "max_tokens": 2})
        wait_until(lambda: bool(running.events("request")))
        assert running.events("request")[-1]["prompt"] == HELLO


def test_metrics(server: RunningServer) -> None:
    def value(name: str) -> float:
        text = server.http.get("/metrics").text
        return sum(
            float(number) for number in re.findall(rf"^{re.escape(name)}(?:\{{.*\}})? (\S+)$", text, re.MULTILINE)
        )

    names = ("generated_tokens_total", "time_to_first_token_seconds_count", "inter_token_seconds_count")
    before = [value(f"edgekiln_{name}") for name in names]
    server.post(CHAT, {"messages": HELLO, "max_tokens": 10, "ignore_eos": True, "n": 2})
    assert [value(f"edgekiln_{name}") - old for name, old in zip(names, before, strict=True)] == [20, 2, 18]
    assert value("edgekiln_requests_running") == value("edgekiln_requests_waiting") == 0
    assert value("edgekiln_slots") == 4
    assert value("edgekiln_batch_size_count") > 0
    text = server.http.get("/metrics").text
    assert f'edgekiln_http_requests_total{{code="200",route="{CHAT}"}}' in text
    server.http.get("/a/path/of/its/own")
    assert "/a/path/of/its/own" not in server.http.get("/metrics").text


def test_engines_are_loaded_when_they_are_named(long_llama: Path) -> None:
    with running_server(("a", long_llama), ("b", long_llama)) as running:
        assert [model["loaded"] for model in running.http.get("/v1/models").json()["data"]] == [True, False]
        assert running.post(CHAT, {"model": "b", "messages": HELLO, "max_tokens": 1}).json()["model"] == "b"
        assert running.post(CHAT, {"messages": HELLO, "max_tokens": 1}).json()["model"] == "a"
        assert [model["loaded"] for model in running.http.get("/v1/models").json()["data"]] == [True, True]


def test_the_least_recently_used_engine_is_unloaded(long_llama: Path) -> None:
    engines = [(name, long_llama) for name in "abc"]
    with running_server(*engines) as running:
        nbytes = running.server.engines._entries["a"].nbytes
    with running_server(*engines, memory=2 * nbytes) as running:

        def ask(name: str) -> int:
            return running.post(CHAT, {"model": name, "messages": HELLO, "max_tokens": 1}).status_code

        def loaded() -> str:
            return "".join(m["id"] for m in running.http.get("/v1/models").json()["data"] if m["loaded"])

        assert (ask("b"), loaded()) == (200, "ab")
        assert (ask("a"), ask("c"), loaded()) == (200, 200, "ac")
        with (
            running.http.stream("POST", CHAT, json={**BODY, "model": "a", "stream": True}),
            running.http.stream("POST", CHAT, json={**BODY, "model": "c", "stream": True}),
        ):
            response = running.post(CHAT, {"model": "b", "messages": HELLO})
            assert (response.status_code, response.json()["error"]["code"]) == (503, "no_memory")
            assert loaded() == "ac"
        wait_until(lambda: running.busy == 0)
        assert (ask("b"), len(loaded())) == (200, 2)


def test_the_limit_of_the_kv_cache(long_llama: Path) -> None:
    limit = 200_000
    with running_server(("tiny", long_llama), kv_memory=limit) as running:
        engine = running.server.engines._entries["tiny"].loaded
        assert 100 < engine.most_tokens < 4096
        usage = running.post(CHAT, {"messages": HELLO, "ignore_eos": True}).json()["usage"]
        assert usage["total_tokens"] == engine.most_tokens
        response = running.post(CHAT, {"messages": HELLO, "max_tokens": engine.most_tokens})
        assert response.status_code == 400
        assert str(limit) in response.json()["error"]["message"]


def test_requests_during_a_shutdown(long_llama: Path) -> None:
    with running_server(("tiny", long_llama), drain_s=20) as running:
        with httpx.Client(base_url=running.url) as http:
            assert http.get("/health").status_code == 200
            with running.http.stream("POST", CHAT, json={**BODY, "stream": True}) as response:
                lines = response.iter_lines()
                next(lines)
                running.begin_stop()
                wait_until(lambda: running.server.draining)
                assert http.get("/health").status_code == 503
                refused = http.post(CHAT, json=BODY)
                assert (refused.status_code, "retry-after" in refused.headers) == (503, True)
                assert [line for line in lines if line][-1] == "data: [DONE]"
        running.join()
    assert running.events("stopped")


def test_answers_that_outlast_a_shutdown(long_llama: Path) -> None:
    with running_server(("tiny", long_llama), drain_s=0.1) as running:
        with running.http.stream("POST", CHAT, json={**BODY, "n": 4, "stream": True}) as response:
            lines = response.iter_lines()
            next(lines)
            start = time.monotonic()
            running.begin_stop()
            last = [line for line in lines if line][-1]
            assert '"code": "server_shutting_down"' in last or '"code":"server_shutting_down"' in last
        running.join()
        assert time.monotonic() - start < 5
