"""Refuses requests that a web page sends to this machine under a name of its own (DNS rebinding)."""

import ipaddress

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from edgekiln.serve.errors import ApiError
from edgekiln.serve.json_response import error_response


class HostCheck:
    """Middleware for servers that only this machine reaches, and that ask for no key.

    A page may let its own host name point to 127.0.0.1 and then read answers as its own origin. The header `Host` has
    that name; a browser on this machine that was meant to come here names localhost or an address.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Pass requests to `app`."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or pass on a request."""
        if _is_local(Headers(scope=scope).get("host", "")):
            await self._app(scope, receive, send)
            return
        message = "the header Host must be localhost or an address: give the server an --api-key to reach it by name"
        await error_response(ApiError(403, message, code="invalid_host"))(scope, receive, send)


def _is_local(host: str) -> bool:
    name = host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
