"""`edgekiln serve` as an operator runs it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from support.command import edgekiln, error_line
from support.serving import HELLO, wait_until

LONG = {"messages": HELLO, "ignore_eos": True, "stream": True}


@contextmanager
def served(
    *arguments: str | Path, port: str = "0", environment: dict[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen, str]]:
    """A process of the command, by default on a free port, and its address."""
    command = [sys.executable, "-m", "edgekiln", "serve", *map(str, arguments), "--port", port, "--threads", "1"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})}
    ) as process:
        try:
            assert process.stderr is not None
            events = map(json.loads, process.stderr)
            url = next(event["url"] for event in events if event["event"] == "listening")
            yield process, url
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_an_idle_server(tiny_engine: Path, number: signal.Signals) -> None:
    with served(tiny_engine) as (process, url):
        wait_until(lambda: httpx.get(f"{url}/health").status_code == 200)
        process.send_signal(number)
        assert process.wait(10) == 0


def test_a_signal_lets_answers_finish(tiny_engine: Path) -> None:
    with served(tiny_engine) as (process, url):
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=LONG) as response:
            lines = response.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            assert [line for line in lines if line][-1] == "data: [DONE]"
        assert process.wait(10) == 0


def test_a_server_that_was_killed_starts_again(tiny_engine: Path) -> None:
    with served(tiny_engine) as (process, url):
        port = url.rpartition(":")[2]
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=LONG):
            process.kill()
            process.wait()
    with served(tiny_engine, port=port) as (_, url):
        answer = httpx.post(f"{url}/v1/chat/completions", json={"messages": HELLO, "max_tokens": 2})
        assert answer.status_code == 200


def test_keys_of_the_environment_and_of_a_file(tiny_engine: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# ours\nfrom-file\n\n")
    arguments = (f"mine={tiny_engine}", "--api-key", "given", "--api-key-file", file)
    with served(*arguments, environment={"EDGEKILN_API_KEY": "from-environment"}) as (_, url):
        for key, status in (("given", 200), ("from-file", 200), ("from-environment", 200), ("other", 401)):
            response = httpx.get(f"{url}/v1/models", headers={"authorization": f"Bearer {key}"})
            assert response.status_code == status
            if status == 200:
                assert response.json()["data"][0]["id"] == "mine"


def test_mistakes_are_one_sentence(tiny_engine: Path, tmp_path: Path) -> None:
    empty = tmp_path / "keys"
    empty.write_text("\n")
    for arguments, word in (
        ([tmp_path / "nothing"], "nothing"),
        ([tiny_engine, tiny_engine], "two engines"),
        ([tiny_engine, "--memory", "1K"], "--memory"),
        ([tiny_engine, "--memory", "much"], "512M"),
        ([tiny_engine, "--api-key", ""], "API key"),
        ([tiny_engine, "--api-key-file", empty], "no key"),
        ([tiny_engine, "--timeout", "0"], "timeout"),
        ([tiny_engine, "--host", "192.0.2.1"], "192.0.2.1"),
        ([f"={tiny_engine}"], "NAME=DIRECTORY"),
        ([], "ENGINE"),
    ):
        assert word in error_line(edgekiln("serve", *arguments)), arguments


def test_a_port_that_is_taken(tiny_engine: Path) -> None:
    with served(tiny_engine) as (_, url):
        port = url.rpartition(":")[2]
        assert port in error_line(edgekiln("serve", tiny_engine, "--port", port))


def test_help_imports_no_server() -> None:
    script = """
import sys
from click.testing import CliRunner
from edgekiln.cli import main
import edgekiln.runtimes
assert CliRunner().invoke(main, ["serve", "--help"]).exit_code == 0
assert CliRunner().invoke(main, ["--help"]).exit_code == 0
print(sorted({"starlette", "uvicorn", "prometheus_client", "httptools", "llguidance", "numpy"} & set(sys.modules)))
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() in ("[]", "['numpy']")


def test_without_the_extra(tiny_engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "pip install 'edgekiln[serve]'" in error_line(edgekiln("serve", tiny_engine))
