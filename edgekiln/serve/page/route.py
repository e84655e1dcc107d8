"""Serves the page: one file, which asks for nothing but the API of its server."""

import base64
import functools
import hashlib
import re
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

_PAGE = Path(__file__).with_name("chat.html")


@functools.cache
def _page() -> tuple[bytes, dict[str, str]]:
    text = _PAGE.read_text(encoding="utf-8")
    policy = {
        "default-src": "'none'",
        "script-src": _hashes(text, "script"),
        "style-src": _hashes(text, "style"),
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    headers = {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "Cache-Control": "no-cache",
    }
    return text.encode(), headers


def _hashes(page: str, tag: str) -> str:
    """The sources of a policy that allow the page's own scripts or styles, and no others."""
    parts = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in parts]
    return " ".join(f"'sha256-{digest}'" for digest in digests)


async def page(_request: Request) -> Response:
    """/: the page."""
    body, headers = _page()
    return Response(body, headers=headers, media_type="text/html")
