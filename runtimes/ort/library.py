"""Imports ONNX Runtime without telemetry and without log lines; edgekiln's other modules take it from here.

Counterpart of cpp/src/runtime/ort/library.h.
"""

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from typing import IO

from edgekiln.telemetry import onnxruntime_telemetry

LOG_FATAL = 4  # a severity of ONNX Runtime; errors are raised, and it would print them, too
# What ONNX Runtime prints while it is imported: records of its log, as of GPUs that a container hides, in color (they
# end with an escape sequence) or not, and lines of its processor detection.
_LOG = re.compile(
    rb"(\x1b\[[0-9;]*m)?[-0-9]+ [:.0-9]+ \[[VIWEF]:onnxruntime:(?(1).*?\x1b\[m|[^\n]*)\n?|^Error in cpuinfo: [^\n]*\n",
    re.DOTALL | re.MULTILINE,
)


@contextlib.contextmanager
def _without_log() -> Iterator[None]:
    """Keep ONNX Runtime's log from stderr inside the block; what else is written there follows after the block.

    The library writes to file descriptor 2 while it is imported, before its severity can be set.
    """
    try:
        stderr = os.dup(2)
    except OSError:  # the process has no stderr
        yield
        return
    try:
        with _memory_file() as written:
            os.dup2(written.fileno(), 2)
            try:
                yield
            finally:
                os.dup2(stderr, 2)
                written.seek(0)
                with contextlib.suppress(OSError):
                    os.write(stderr, _LOG.sub(b"", written.read()))
    finally:
        os.close(stderr)


def _memory_file() -> IO[bytes]:
    if sys.platform == "linux":
        return open(os.memfd_create("stderr"), "w+b")
    return tempfile.TemporaryFile()


if "onnxruntime" in sys.modules:
    import onnxruntime
else:
    with _without_log():
        import onnxruntime
    # A program that imported ONNX Runtime before edgekiln keeps its log.
    onnxruntime.set_default_logger_severity(LOG_FATAL)
if not onnxruntime_telemetry():
    # For a program that imported ONNX Runtime before edgekiln, which then did not set the variable, and for Windows.
    onnxruntime.disable_telemetry_events()

__all__ = ["LOG_FATAL", "onnxruntime"]
