"""Where and when a measurement was taken."""

import datetime
from importlib.metadata import version
from typing import Any

from bench.common.bounds import read_gb_per_s
from edgekiln.system import detect


def environment(threads: int, *libraries: str) -> dict[str, Any]:
    """UTC time, processor, measured read bandwidth in GB/s, threads, and versions of installed libraries."""
    return {
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "processor": detect().processor,
        "read_gb_per_s": read_gb_per_s(threads),
        "threads": threads,
        "versions": {library: version(library) for library in libraries},
    }
