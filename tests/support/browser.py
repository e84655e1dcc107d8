"""A headless Chromium, driven through chromedriver in the WebDriver protocol."""

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from support.serving import wait_until

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
ENTER, ESCAPE, SHIFT = "\ue007", "\ue00c", "\ue008"
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


class Browser:
    """A page in a browser."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        response = self._http.request(method, path, json=body if method == "POST" else None)
        value = response.json()["value"]
        assert response.status_code == 200, value
        return value

    def open(self, url: str) -> None:
        """Load a page."""
        self._call("POST", "/url", {"url": url})

    def script(self, body: str) -> Any:
        """The result of a function's body in JavaScript."""
        return self._call("POST", "/execute/sync", {"script": body, "args": []})

    def type(self, selector: str, text: str) -> None:
        """Press keys in an element."""
        element = self._call("POST", "/element", {"using": "css selector", "value": selector})[_ELEMENT]
        self._call("POST", f"/element/{element}/value", {"text": text})

    def click(self, selector: str) -> None:
        """Click an element."""
        element = self._call("POST", "/element", {"using": "css selector", "value": selector})[_ELEMENT]
        self._call("POST", f"/element/{element}/click", {})

    def prefer(self, scheme: str) -> None:
        """Prefer a light or dark scheme of colors."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        body = {"cmd": "Emulation.setEmulatedMedia", "params": {"features": features}}
        self._call("POST", "/goog/cdp/execute", body)

    def screenshot(self) -> str:
        """A PNG in base64."""
        image: str = self._call("GET", "/screenshot")
        return image

    def log(self) -> list[str]:
        """Messages in the console since the last call, such as violations of a policy."""
        return [entry["message"] for entry in self._call("POST", "/se/log", {"type": "browser"})]


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser in its own process."""
    assert CHROMIUM
    assert DRIVER
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [DRIVER, f"--port={port}", "--silent"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
                wait_until(lambda: _ready(http), 30)
                arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=900,700"]
                options = {"binary": CHROMIUM, "args": arguments}
                wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
                response = http.post("/session", json={"capabilities": {"alwaysMatch": wanted}})
                assert response.status_code == 200, response.text
                http.base_url = f"http://127.0.0.1:{port}/session/{response.json()['value']['sessionId']}"
                try:
                    yield Browser(http)
                finally:
                    http.delete("")
        finally:
            process.terminate()


def _ready(http: httpx.Client) -> bool:
    try:
        return bool(http.get("/status").json()["value"]["ready"])
    except httpx.TransportError:
        return False
