"""API keys: every route but those of `PUBLIC` asks for one, where the server has any."""

import hashlib
import hmac
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from edgekiln.serve.errors import ApiError
from edgekiln.serve.json_response import error_response

# The page has no secrets: it sends the key that the user gives it.
PUBLIC = frozenset({"/", "/health"})


class Auth:
    """Middleware that answers 401 to requests without a key."""

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        """Let requests with one of `keys` pass to `app`."""
        self._app = app
        self._digests = [_digest(key.encode()) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or pass on a request."""
        if scope["path"] in PUBLIC or self._is_known(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        message = "give a valid API key, as in the header Authorization: Bearer KEY"
        error = ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        await error_response(error)(scope, receive, send)

    def _is_known(self, headers: Headers) -> bool:
        kind, _, key = headers.get("authorization", "").partition(" ")
        given = _digest(key.strip().encode()) if kind.lower() == "bearer" else b""
        # All keys are compared, and digests of one length, so that the time tells nothing of a key.
        return any([hmac.compare_digest(given, digest) for digest in self._digests])


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
