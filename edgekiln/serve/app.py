"""The routes of a server, and the layers around them."""

from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from edgekiln.serve import simple_routes
from edgekiln.serve.access import Access
from edgekiln.serve.auth import Auth
from edgekiln.serve.chat import chat_completions
from edgekiln.serve.completions import completions
from edgekiln.serve.failures import Failures
from edgekiln.serve.host_check import HostCheck
from edgekiln.serve.page.route import page
from edgekiln.serve.responses import responses
from edgekiln.serve.state import Server

ROUTES = [
    Route("/", page, methods=["GET"]),
    Route("/v1/chat/completions", chat_completions, methods=["POST"]),
    Route("/v1/completions", completions, methods=["POST"]),
    Route("/v1/responses", responses, methods=["POST"]),
    Route("/v1/embeddings", simple_routes.embeddings, methods=["POST"]),
    Route("/v1/models", simple_routes.models, methods=["GET"]),
    Route("/v1/models/{name:path}", simple_routes.model, methods=["GET"]),
    Route("/tokenize", simple_routes.tokenize, methods=["POST"]),
    Route("/detokenize", simple_routes.detokenize, methods=["POST"]),
    Route("/health", simple_routes.health, methods=["GET"]),
    Route("/metrics", simple_routes.metrics, methods=["GET"]),
]


def create_app(server: Server) -> ASGIApp:
    """The ASGI application of a server."""
    options = server.options
    app: ASGIApp = Failures(Router(ROUTES, redirect_slashes=False), server)
    if options.api_keys:
        app = Auth(app, options.api_keys)
    if options.check_host:
        app = HostCheck(app)
    if options.cors_origins:  # around the keys: what a browser asks before a request has none
        app = CORSMiddleware(
            app,
            allow_origins=options.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=["X-Request-Id", "Retry-After"],
        )
    return Access(app, server, frozenset(route.path for route in ROUTES))
