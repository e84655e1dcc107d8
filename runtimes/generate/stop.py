"""Stop strings in the bytes of tokens."""

from collections import deque


class StopMatcher:
    """Finds the first stop string. Tokens that may contain the start of one are held back.

    Stop strings are looked for in bytes, as by `StopStringCriteria` of transformers, since a token may be a part of a
    character.
    """

    def __init__(self, stop: tuple[str, ...]) -> None:
        """Look for any of the strings `stop`, none of them empty."""
        self._stop = tuple(text.encode() for text in stop)
        self._longest = max(map(len, self._stop), default=0)
        self._held = b""
        self._sizes: deque[int] = deque()  # bytes of each token that is held back

    def push(self, token: bytes) -> tuple[int, int | None]:
        """Add the bytes of a token.

        Returns:
            The number of tokens, the oldest that were held back, that end before a stop string or the start of one. If
            a stop string is complete, also the number of bytes before it in the token after these; otherwise None.
        """
        self._held += token
        self._sizes.append(len(token))
        found = [(start + len(stop), start) for stop in self._stop if (start := self._held.find(stop)) >= 0]
        # The stop string that ends first, so that the result does not depend on how the text is split into tokens.
        start = min(found)[1] if found else len(self._held) - self._partial_match()
        count = end = 0
        while self._sizes and end + self._sizes[0] <= start:
            end += self._sizes.popleft()
            count += 1
        self._held = self._held[end:]
        return count, start - end if found else None

    def _partial_match(self) -> int:
        """Length of the longest suffix of the held bytes that is a proper prefix of a stop string."""
        for size in range(min(self._longest - 1, len(self._held)), 0, -1):
            end = self._held[-size:]
            if any(stop.startswith(end) for stop in self._stop):
                return size
        return 0
