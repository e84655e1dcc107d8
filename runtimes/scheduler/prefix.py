"""Which tokens of an earlier sequence a prompt can take over, and in which runs the rest is computed.

Kernels round differently in runs of few and of many tokens (`Runtime.run_sizes`). A prompt takes over tokens that its
own runs would have given the same bits, and cuts the rest into runs that do, so that an answer does not depend on the
requests before it. Between two of the run sizes, runs are of one class; its number is the index of the next size.
"""

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekiln.runtimes.base import Ids

Classes = NDArray[np.int8]


def common_prefix(first: Ids, second: Ids) -> int:
    """Number of tokens with which two sequences begin alike."""
    most = min(first.size, second.size)
    different = np.flatnonzero(first[:most] != second[:most])
    return int(different[0]) if different.size else most


@dataclass(frozen=True)
class PrefixRules:
    """How an engine cuts prompts into runs.

    Attributes:
        chunk: prompt tokens of a run, at most.
        run_sizes: see `edgekiln.runtimes.base.Runtime`; empty if every prefix may be taken over.
    """

    chunk: int
    run_sizes: tuple[int, ...]

    def classes(self, length: int) -> Classes:
        """int8[length], the class of each token of a prompt that takes nothing over."""
        classes = np.full(length, self._class(self.chunk), np.int8)
        if tail := length % self.chunk:
            classes[length - tail :] = self._class(tail)
        return classes

    def reusable(self, common: int, held: Classes, length: int) -> int:
        """The number of tokens that a prompt can take over; at least its last token always runs.

        Args:
            common: tokens with which the prompt and the held sequence begin alike.
            held: int8[N], N >= common, the class of each token of the held sequence.
            length: tokens of the prompt.
        """
        most = min(common, length - 1)
        if not self.run_sizes:
            return most
        wrong = np.flatnonzero(held[:most] != self.classes(length)[:most])
        most = int(wrong[0]) if wrong.size else most
        body = self._body(length)
        if most > body:
            most = min(most, length - self._least(length - body))
        if most < body:
            # Each run of the rest of the body has to be of the body's class.
            least = self._least(self.chunk)
            most = min(most, body - least)
            count = -(-(body - most) // self.chunk)
            if (body - most) // count < least:
                most = body - count * least
        return max(most, 0)

    def runs(self, start: int, length: int) -> list[int]:
        """Sizes of the runs from token `start` of a prompt of `length` tokens to its end, each at most a chunk."""
        body = self._body(length)
        if not self.run_sizes or start >= body:
            rest = length - start
            return [min(self.chunk, rest - first) for first in range(0, rest, self.chunk)]
        count = -(-(body - start) // self.chunk)
        sizes = [(body - start) // count + (1 if index < (body - start) % count else 0) for index in range(count)]
        return sizes + ([length - body] if length > body else [])

    def part(self, size: int, most: int) -> int:
        """The size of the first of the runs that a run may be cut into, at most `most`; `size` if it cannot be cut."""
        if size <= most or {self._class(each) for each in (most, size - most, size)} == {self._class(size)}:
            return min(size, most)
        return size

    def _body(self, length: int) -> int:
        """The number of first tokens of a prompt that are all of the class of a whole chunk."""
        tail = length % self.chunk
        return length if self._class(tail) == self._class(self.chunk) else length - tail

    def run_class(self, size: int) -> int:
        """The class of a run of `size` tokens."""
        return self._class(size)

    def _class(self, size: int) -> int:
        return bisect_right(self.run_sizes, size)

    def _least(self, size: int) -> int:
        """The smallest run of the class of a run of `size` tokens."""
        index = self._class(size)
        return self.run_sizes[index - 1] if index else 1
