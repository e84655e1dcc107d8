"""Limits on how much worse than the float32 model an engine may be. Imports nothing heavy."""

import math
from dataclasses import dataclass

from edgekiln.errors import RequestError


@dataclass(frozen=True)
class Limits:
    """Layers are promoted to 8 bits until both limits hold on held-out calibration data; None disables a limit.

    Attributes:
        max_ppl_increase: increase of perplexity, in percent.
        max_kl: mean KL divergence of the predictions from those of the float32 model, in nats.

    Raises:
        RequestError: a limit is not a number above 0.
    """

    max_ppl_increase: float | None = None
    max_kl: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("max ppl increase", self.max_ppl_increase), ("max kl", self.max_kl)):
            if value is not None and not 0 < value < math.inf:
                raise RequestError(f"{name} must be above 0, got {value}")

    def __bool__(self) -> bool:
        return self.max_ppl_increase is not None or self.max_kl is not None
