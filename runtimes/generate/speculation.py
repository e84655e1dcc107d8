"""Choose the length of the next draft that maximizes the expected tokens per second.

A run with k drafted tokens takes s + k c seconds and yields 1 + a + a² + ... + aᵏ tokens on average, where s is the
time of a decode step, c the extra time per drafted token and a the probability that a drafted token is accepted
(Leviathan et al. 2023). All three are exponential moving averages of measurements. While plain decode steps are best, a
short trial draft is run whenever it costs at most 3% of the time of the plain steps since the last draft.
"""

_TIME_WEIGHT = 0.2  # of the newest measurement in the moving averages of times
_ACCEPTANCE_WEIGHT = 0.1
_TRIAL_LENGTH = 3  # tokens
_TRIAL_SHARE = 0.03


class Speculation:
    """Adapts the draft length to the runs of one answer."""

    def __init__(self, most: int) -> None:
        """Allow drafts of up to `most` tokens."""
        self._most = most
        self._step_seconds: float | None = None
        self._token_cost = 0.25  # c / s: time that a drafted token adds, in decode steps
        self._acceptance = 0.5  # probability that a drafted token is accepted if the one before it was
        self._plain_steps = 0  # since the last draft

    def draft_length(self) -> int:
        """Most tokens to draft for the next run; 0 for a plain decode step."""
        if self._step_seconds is None:
            return 0
        if best := self._best_length():
            return best
        trial = min(_TRIAL_LENGTH, self._most)
        return trial if self._token_cost * trial <= _TRIAL_SHARE * self._plain_steps else 0

    def observe(self, drafted: int, accepted: int, seconds: float) -> None:
        """Record a run.

        Args:
            drafted: number of drafted tokens in it.
            accepted: how many of them, from the first, were the tokens that the sampler chose.
            seconds: time that it took.
        """
        if not drafted:
            average = self._step_seconds
            self._step_seconds = seconds if average is None else _updated(average, seconds, _TIME_WEIGHT)
            self._plain_steps += 1
            return
        self._plain_steps = 0
        if self._step_seconds:
            cost = max(0.0, (seconds / self._step_seconds - 1) / drafted)
            self._token_cost = _updated(self._token_cost, cost, _TIME_WEIGHT)
        for _ in range(accepted):
            self._acceptance = _updated(self._acceptance, 1, _ACCEPTANCE_WEIGHT)
        if accepted < drafted:
            self._acceptance = _updated(self._acceptance, 0, _ACCEPTANCE_WEIGHT)

    def _best_length(self) -> int:
        best, best_rate = 0, 1.0
        tokens = probability = 1.0
        for length in range(1, self._most + 1):
            probability *= self._acceptance
            tokens += probability
            rate = tokens / (1 + self._token_cost * length)
            if rate > best_rate:
                best, best_rate = length, rate
        return best


def _updated(average: float, newest: float, weight: float) -> float:
    return average + weight * (newest - average)
