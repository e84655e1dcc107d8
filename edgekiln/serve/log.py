"""The log: one JSON object a line on stderr."""

import json
import sys
import threading
import time
from datetime import UTC, datetime
from typing import Any, TextIO


class Log:
    """Writes events. The text of prompts is not among them, unless `prompts`; that of answers never is."""

    def __init__(self, prompts: bool = False, stream: TextIO | None = None) -> None:
        """Write to `stream`, by default stderr."""
        self.prompts = prompts
        self._stream = stream
        self._lock = threading.Lock()

    def write(self, event: str, level: str = "info", **fields: Any) -> None:
        """Write an event; fields that are None are left out."""
        now = datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds")
        fields = {name: value for name, value in fields.items() if value is not None}
        line = json.dumps({"time": now, "level": level, "event": event, **fields}, default=str)
        stream = self._stream or sys.stderr
        with self._lock:
            try:
                stream.write(line + "\n")
                stream.flush()
            except (OSError, ValueError):  # the reader is gone; the server need not go with it
                pass
