"""JSON responses."""

from typing import Any

from starlette.responses import Response

from edgekiln.serve.errors import ApiError
from edgekiln.serve.sse import to_json


class JsonResponse(Response):
    """A JSON object."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The body."""
        return to_json(content).encode()


def error_response(error: ApiError) -> Response:
    """The response to a request that is not answered."""
    return Response(error.json(), error.status, error.headers, "application/json")
