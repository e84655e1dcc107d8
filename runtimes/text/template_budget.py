"""The work that one rendering of a chat template may do, counted in steps: it ends at the same point on every machine.

A template comes with a model, and Jinja's sandbox bounds neither its time nor its memory. A step takes about a
microsecond: a call, some nodes of the template, or a piece of text that is copied. Longer conversations get more steps.
"""

import sys
import threading
from collections.abc import ItemsView, Iterable, Iterator, KeysView, ValuesView
from typing import Any

from edgekiln.errors import RequestError

# The longest source of a template, and its most tags; those of models have up to some 50,000 characters.
MAX_SOURCE = 100_000
MAX_TAGS = 5_000
STEPS = 500_000  # of a rendering, but for those that longer messages add
_LONGEST = 4_000_000  # characters of a text, but for the messages' own
_LARGEST_WIDTH = 10_000  # of a field that is padded or indented
_BYTES = 8  # binary logarithm of the bytes of text that a step reads or writes
_ITEMS = 5  # binary logarithm of the items that a step puts into a list
_STEPS_TO_KEEP = 8  # a container whose size was counted stays in memory
_ENTRY = 8  # bytes of an item of a list
VIEWS = (ItemsView, KeysView, ValuesView)


class TemplateLimitError(RequestError):
    """A chat template takes too long or writes too much for any conversation."""


class Budget:
    """Steps that are left, and the sizes of values.

    Attributes:
        longest: most bytes of a value that may be written, compared or converted to text.
    """

    def __init__(self, variables: dict[str, Any], steps: int = STEPS) -> None:
        """Begin a rendering with these variables of the template."""
        self._sizes: dict[int, tuple[object, int]] = {}  # id -> container, which is kept so that its id stays its own
        self._steps = sys.maxsize
        size = self.size(variables)
        self._steps = steps + size // 2
        self.longest = _LONGEST + 8 * size

    def spend(self, steps: int) -> bool:
        """Count steps; returns True.

        Raises:
            TemplateLimitError: there are none left.
        """
        self._steps -= steps
        if self._steps < 0:
            raise TemplateLimitError("the chat template takes too many steps: use a model with another template")
        return True

    def read(self, *values: Any) -> None:
        """Count the reading of values.

        Raises:
            TemplateLimitError: no steps are left, or a value is too large, as lists that hold one list many times are.
        """
        self.spend(1 + (sum(self.fits(self.size(value)) for value in values) >> _BYTES))

    def written(self, value: Any) -> Any:
        """Count a value that was made, and return it."""
        if isinstance(value, str):
            self.spend(self.fits(_bytes(value)) >> _BYTES)
        elif isinstance(value, list | tuple | dict):
            self.spend(len(value) >> _ITEMS)
        elif isinstance(value, Iterator):
            return self.counted(value)
        return value

    def counted(self, items: Iterable[Any]) -> Iterator[Any]:
        """The items; each costs a step when it is taken."""
        for item in items:
            self.spend(1)
            yield item

    def fits(self, size: int) -> int:
        """Check a size in bytes, and return it."""
        if size > self.longest:
            raise TemplateLimitError("the chat template writes too much text: use a model with another template")
        return size

    def size(self, value: Any) -> int:
        """Bytes of a value as if each item of a container were a copy."""
        if isinstance(value, str):
            return _bytes(value)
        if isinstance(value, list | tuple | dict | set):
            known = self._sizes.get(id(value))
            if known is None:
                self.spend(_STEPS_TO_KEEP)
                known = self._sizes[id(value)] = (value, self._size_of_items(value))
            return known[1]
        if isinstance(value, VIEWS):
            return self._size_of_items(list(value))
        if isinstance(value, range):
            return _ENTRY * len(value)
        return value.bit_length() >> 3 if isinstance(value, int) else _ENTRY

    def _size_of_items(self, items: Any) -> int:
        self.spend(1 + (len(items) >> 2))
        size = sum(_ENTRY + self.size(item) for item in items)
        return size + sum(self.size(item) for item in items.values()) if isinstance(items, dict) else size


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else 4 * len(text)


class _Current(threading.local):
    """The rendering of this thread.

    Attributes:
        budget: what it may do.
        marks: texts in its variables are `MarkedText`.
    """

    budget = Budget({})
    marks = False


current = _Current()


def check_width(width: Any) -> None:
    """Check the width of a padded or indented field, if it is a number.

    Raises:
        TemplateLimitError: it is too wide.
    """
    if isinstance(width, int) and abs(width) > _LARGEST_WIDTH:
        raise TemplateLimitError(
            f"the chat template pads text to {str(width)[:20]} characters: use a model with another template"
            if width.bit_length() < 10_000
            else "the chat template pads text beyond any limit: use a model with another template"
        )
