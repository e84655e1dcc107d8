"""What every record of a measurement says of where and when it was taken."""

import datetime
from importlib.metadata import version
from typing import Any

from bounds import read_gb_per_s

from edgekiln.system import look


def surroundings(threads: int, *libraries: str) -> dict[str, Any]:
    """The time, the processor, what its memory gives at this moment, and versions of this environment's libraries."""
    return {
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "processor": look().processor,
        "read_gb_per_s": read_gb_per_s(threads),
        "threads": threads,
        "versions": {library: version(library) for library in libraries},
    }
