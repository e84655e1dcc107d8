"""The text on which a build measures its quality. Imports nothing heavy."""

import hashlib
from dataclasses import dataclass

from edgekiln.errors import RequestError

WINDOW = 512


@dataclass(frozen=True)
class QualityText:
    """A text that both the reference and the engine predict.

    Attributes:
        name: name of the file, for the report.
        content: the text.
        max_tokens: largest number of tokens to use.

    Raises:
        RequestError: `max_tokens` is below 2.
    """

    name: str
    content: str
    max_tokens: int = 20 * WINDOW

    def __post_init__(self) -> None:
        if self.max_tokens < 2:
            raise RequestError(f"eval tokens must be at least 2, got {self.max_tokens}")

    @property
    def sha256(self) -> str:
        """Hex SHA-256 of the text as UTF-8."""
        return hashlib.sha256(self.content.encode()).hexdigest()
