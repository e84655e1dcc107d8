"""Stop sequences in streamed text."""


class StopMatcher:
    """Passes text through until a stop sequence occurs. Text that may be the beginning of one is held back."""

    def __init__(self, stop: tuple[str, ...]) -> None:
        """Match any of the strings `stop`, none of them empty."""
        self._stop = stop
        self._longest = max(map(len, stop), default=0)
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """Add text.

        Returns:
            The text that can be shown, and whether a stop sequence was found. The stop sequence and the text after it
            are dropped.
        """
        if not self._stop:
            return text, False
        self._held += text
        found = [(start + len(stop), start) for stop in self._stop if (start := self._held.find(stop)) >= 0]
        if found:
            # The stop sequence that ends first, so that the result does not depend on how the text is split.
            shown, self._held = self._held[: min(found)[1]], ""
            return shown, True
        keep = self._partial_match()
        shown, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return shown, False

    def flush(self) -> str:
        """The text that was held back; call it at the end of the text."""
        shown, self._held = self._held, ""
        return shown

    def _partial_match(self) -> int:
        """Length of the longest suffix of the held text that is a proper prefix of a stop sequence."""
        for size in range(min(self._longest - 1, len(self._held)), 0, -1):
            end = self._held[-size:]
            if any(stop.startswith(end) for stop in self._stop):
                return size
        return 0
