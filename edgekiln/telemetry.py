"""Telemetry of the libraries that edgekiln imports: off, unless the user's environment turns it on.

The libraries read their variables when they are imported, so `edgekiln/__init__.py` sets them. ONNX Runtime from 1.29
otherwise writes a device id and a database of events into the user's cache directory, and uploads the events.
"""

import os

# Variable -> the value that turns telemetry off. ONNX Runtime's events; what Hugging Face's libraries add to their
# requests; the request with which `datasets` counts a download.
_OFF = {"ORT_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_UPDATE_DOWNLOAD_COUNTS": "0"}


def disable_telemetry() -> None:
    """Set the variables of `_OFF` that the environment does not set; one that is empty counts as not set."""
    for name, value in _OFF.items():
        if not os.environ.get(name):
            os.environ[name] = value


def onnxruntime_telemetry() -> bool:
    """Whether the user's environment turns ONNX Runtime's telemetry on, as with ORT_DISABLE_TELEMETRY=0."""
    return os.environ.get("ORT_DISABLE_TELEMETRY", "").lower() not in ("", "1", "true", "yes", "on")
