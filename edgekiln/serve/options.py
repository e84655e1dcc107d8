"""What the operator of a server chooses."""

from dataclasses import dataclass

from edgekiln.errors import RequestError

MIB = 1 << 20


@dataclass(frozen=True)
class ServeOptions:
    """How the server answers.

    Attributes:
        api_keys: a request must have one of them; none: no key is asked for.
        cors_origins: origins whose pages may call the API from a browser; "*" for all.
        max_body: bytes of a request's body, at most.
        max_tokens: tokens of an answer, at most; None: what is left of the context.
        timeout_s: seconds that a request may take, with its time in the queue.
        drain_s: seconds that running answers have to finish at a shutdown.
        header_timeout_s: seconds in which a request's headers, and then its body, must arrive.
        max_connections: open connections, at most; further ones are closed at once.
        log_prompts: log the text of prompts.
        check_host: refuse requests whose header `Host` is neither localhost nor an address.

    Raises:
        RequestError: a value is out of range.
    """

    api_keys: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    max_body: int = 4 * MIB
    max_tokens: int | None = None
    timeout_s: float = 600.0
    drain_s: float = 30.0
    header_timeout_s: float = 20.0
    max_connections: int = 512
    log_prompts: bool = False
    check_host: bool = False

    def __post_init__(self) -> None:
        for name in ("max_body", "max_connections"):
            if getattr(self, name) < 1:
                raise RequestError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise RequestError(f"max_tokens must be at least 1, got {self.max_tokens}")
        for name in ("timeout_s", "header_timeout_s"):
            if not 0 < getattr(self, name) < 1e9:
                raise RequestError(f"{name} must be more than 0 and less than 1e9, got {getattr(self, name)}")
        if not 0 <= self.drain_s < 1e9:
            raise RequestError(f"drain_s must be 0 or more and less than 1e9, got {self.drain_s}")
        for key in self.api_keys:
            if not key or not key.isascii() or not key.isprintable() or " " in key:
                raise RequestError("an API key must be printable ASCII without spaces, and not empty")
