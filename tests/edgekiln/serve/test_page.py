"""The chat page in a headless Chromium."""

import base64
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.browser import CHROMIUM, DRIVER, ENTER, ESCAPE, SHIFT, Browser, browser
from support.serving import RunningServer, wait_until

needs_browser = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="Chromium or its driver is not installed: chromium, chromium-driver"
)
LAST = "[...document.querySelectorAll('.assistant')].at(-1)"


def test_the_page_asks_for_nothing_else(server: RunningServer) -> None:
    response = server.http.get("/")
    policy = dict(part.strip().split(" ", 1) for part in response.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert policy["script-src"].startswith("'sha256-")
    assert "unsafe" not in str(policy)
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert not re.findall(r"https?://|//[a-z]+\.", response.text)
    assert not re.findall(r"\son[a-z]+=|\sstyle=", response.text)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A browser for all tests."""
    with browser() as running:
        yield running


@pytest.fixture
def page(chromium: Browser, server: RunningServer) -> Browser:
    """The page, with its engines, as a new user sees it."""
    chromium.open(server.url)
    chromium.script("localStorage.clear()")
    chromium.open(server.url)
    wait_until(lambda: chromium.script("return document.querySelectorAll('#model option').length") == 1)
    return chromium


def ended(page: Browser) -> bool:
    return page.script(f"return {LAST} !== undefined && {LAST}.dataset.running === undefined")


def set_value(page: Browser, name: str, value: str) -> None:
    change = f"element.value = {value!r}; element.dispatchEvent(new Event('change'))"
    page.script(f"const element = document.getElementById({name!r}); {change}")


@needs_browser
def test_a_conversation(page: Browser, server: RunningServer) -> None:
    set_value(page, "max_tokens", "8")
    page.type("#input", "Hello" + SHIFT + ENTER + SHIFT + "there" + ENTER)
    wait_until(lambda: ended(page))
    assert page.script("return document.querySelector('.user').textContent") == "Hello\nthere"
    assert page.script("return messages.length") == 2
    body = {"messages": [{"role": "user", "content": "Hello\nthere"}], "max_tokens": 8}
    answer = server.post("/v1/chat/completions", body).json()
    text = answer["choices"][0]["message"]["content"]
    assert page.script(f"return {LAST}.querySelector('.text').textContent") == text
    assert f"{answer['usage']['completion_tokens']} tokens" in page.script(f"return {LAST}.innerText")
    assert page.script("return document.getElementById('status').textContent").startswith("The answer is complete")
    page.type("#input", "More" + ENTER)
    wait_until(lambda: page.script("return messages.length") == 4)
    page.click("#clear")
    assert page.script("return [messages.length, document.querySelectorAll('.message').length]") == [0, 0]
    assert page.log() == []


@needs_browser
@pytest.mark.parametrize("how", ["key", "button"])
def test_an_answer_is_stopped(page: Browser, server: RunningServer, how: str) -> None:
    page.script("body = () => JSON.stringify({messages, stream: true, ignore_eos: true})")
    page.type("#input", "Hello" + ENTER)
    wait_until(lambda: page.script(f"return {LAST} && {LAST}.textContent.length > 5"))
    assert page.script("return document.getElementById('send').hidden")
    if how == "key":
        page.type("#input", ESCAPE)
    else:
        page.click("#stop")
    wait_until(lambda: ended(page))
    assert "Stopped" in page.script(f"return {LAST}.innerText")
    wait_until(lambda: server.busy == 0, 3)
    assert page.script("return document.getElementById('stop').hidden")


@needs_browser
def test_settings(page: Browser, server: RunningServer) -> None:
    page.click("summary")
    for name, value in (("temperature", "9"), ("max_tokens", "2"), ("system", "Be brief.")):
        set_value(page, name, value)
    assert page.script("messages = [{role: 'user', content: 'a'}]; return JSON.parse(body())") == {
        "model": "tiny",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 9,
        "max_tokens": 2,
    }
    page.open(server.url)
    assert page.script("return document.getElementById('system').value") == "Be brief."


@needs_browser
def test_an_error_is_shown(page: Browser) -> None:
    set_value(page, "temperature", "-1")
    page.type("#input", "Hello" + ENTER)
    wait_until(lambda: ended(page))
    assert "temperature" in page.script(f"return {LAST}.querySelector('.error').textContent")
    assert page.script("return messages.length") == 0


@needs_browser
def test_every_control_has_a_name(page: Browser) -> None:
    unnamed = """return [...document.querySelectorAll('button, input, select, textarea')].filter(each =>
        !(each.labels?.length && each.labels[0].textContent.trim()) && !each.textContent.trim()).map(each => each.id)"""
    assert page.script(unnamed) == []
    assert page.script("return document.querySelector('[aria-live]').getAttribute('aria-live')") == "polite"
    assert page.script("return document.activeElement.id") == "input"
    assert page.script("return document.documentElement.lang") == "en"


@needs_browser
def test_colors_follow_the_system(page: Browser, tmp_path: Path) -> None:
    """Screenshots go to the directory EDGEKILN_SCREENSHOTS, to be looked at."""
    directory = Path(os.environ.get("EDGEKILN_SCREENSHOTS", tmp_path))
    page.type("#input", "Hello" + ENTER)
    wait_until(lambda: ended(page), 30)
    colors = []
    for scheme in ("light", "dark"):
        page.prefer(scheme)
        colors.append(page.script("return getComputedStyle(document.body).backgroundColor"))
        (directory / f"{scheme}.png").write_bytes(base64.b64decode(page.screenshot()))
    light, dark = (sum(map(int, re.findall(r"\d+", color)[:3])) for color in colors)
    assert light > 600
    assert dark < 150
