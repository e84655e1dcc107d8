"""How many tokens to draft: as many as give the most tokens a second by what was measured lately.

The rule: a run that max_verify_tokens k drafted tokens takes s + k c seconds and gives 1 + a + a² + ... + aᵏ tokens, where s is
the time of a plain step, c what a drafted token adds to it and a the chance that one is accepted, each a running
average in which recent runs count more. The k of the highest quotient is drafted. Where that is 0, a short draft is
tried again once plain steps have taken so long that it may cost no more than 3% of them.
"""

_OF_TIMES = 0.2  # weight of the newest of what is averaged
_OF_ACCEPTANCE = 0.1
_TRIAL = 3  # tokens of a short draft
_TRIAL_SHARE = 0.03


class Speculation:
    """Learns from the runs of one answer."""

    def __init__(self, most: int) -> None:
        """`most`: tokens of the longest draft."""
        self._most = most
        self._step: float | None = None  # seconds
        self._added = 0.25  # by each drafted token, in steps
        self._accepted = 0.5  # chance of each drafted token after an accepted one
        self._plain = 0  # steps since the last draft

    def draft_length(self) -> int:
        """Tokens to draft for the next run, at most."""
        if self._step is None:
            return 0
        if best := self._best_length():
            return best
        trial = min(_TRIAL, self._most)
        return trial if self._added * trial <= _TRIAL_SHARE * self._plain else 0

    def observe(self, drafted: int, accepted: int, seconds: float) -> None:
        """A run with `drafted` tokens, of which the first `accepted` were what the model chose, took `seconds`."""
        if not drafted:
            self._step = seconds if self._step is None else _averaged(self._step, seconds, _OF_TIMES)
            self._plain += 1
            return
        self._plain = 0
        if self._step:
            self._added = _averaged(self._added, max(0.0, (seconds / self._step - 1) / drafted), _OF_TIMES)
        for _ in range(accepted):
            self._accepted = _averaged(self._accepted, 1, _OF_ACCEPTANCE)
        if accepted < drafted:
            self._accepted = _averaged(self._accepted, 0, _OF_ACCEPTANCE)

    def _best_length(self) -> int:
        best, highest = 0, 1.0
        tokens = chance = 1.0
        for length in range(1, self._most + 1):
            chance *= self._accepted
            tokens += chance
            rate = tokens / (1 + self._added * length)
            if rate > highest:
                best, highest = length, rate
        return best


def _averaged(value: float, newest: float, weight: float) -> float:
    return value + weight * (newest - value)
