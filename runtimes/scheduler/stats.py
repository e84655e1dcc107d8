"""What a scheduler has done so far, and does now."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class SchedulerStats:
    """Counts of a scheduler.

    Attributes:
        waiting, running: requests.
        slots: sequences of the KV cache.
        kv_bytes: bytes of keys, values and states of running and finished sequences.
        prompt_tokens: tokens of prompts that were computed.
        cached_tokens: tokens of prompts that were taken over from earlier sequences.
        generated_tokens: tokens of answers.
        steps: number of decode steps by the number of sequences.
    """

    waiting: int = 0
    running: int = 0
    slots: int = 0
    kv_bytes: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    steps: Counter[int] = field(default_factory=Counter)

    def copy(self) -> "SchedulerStats":
        """The counts as they are now."""
        return SchedulerStats(**{**vars(self), "steps": Counter(self.steps)})
