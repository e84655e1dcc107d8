"""What a build measures its quality on. Cheap to import: the command line reads the text before it loads anything."""

import hashlib
from dataclasses import dataclass

from edgekiln.errors import RequestError

WINDOW = 512


@dataclass(frozen=True)
class QualityText:
    """A text that the model and the engine predict.

    Attributes:
        name: of the file, for the record.
        content: the text.
        max_tokens: use only so many tokens of it.

    Raises:
        RequestError: fewer than two tokens asked for.
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
