"""SplitMix64: a seeded random generator that is simple enough to be identical in Python and C++.

Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
"""

MASK = (1 << 64) - 1
GAMMA = 0x9E3779B97F4A7C15


class SplitMix64:
    """A generator with 64 bits of state. Each step adds `GAMMA` to the state and mixes it. Not for cryptography."""

    def __init__(self, seed: int) -> None:
        """Start with state `seed`, modulo 2^64."""
        self._state = seed & MASK

    @classmethod
    def stream(cls, seed: int, index: int) -> "SplitMix64":
        """The generator of one sequence of a batch, seeded with output number `index` of the generator of `seed`."""
        parent = cls(seed + index * GAMMA)
        return cls(parent.next())

    def next(self) -> int:
        """The next unsigned 64-bit number."""
        self._state = (self._state + GAMMA) & MASK
        mixed = self._state
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & MASK
        return mixed ^ (mixed >> 31)

    def uniform(self) -> float:
        """The next float64 in [0, 1): the top 53 bits of `next`, times 2^-53."""
        return (self.next() >> 11) * 2.0**-53
