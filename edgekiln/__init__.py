"""edgekiln: build quantized engines from Hugging Face language models and run them on edge devices.

    import edgekiln

    engine = edgekiln.build("smollm2-135m", "engines/smollm2")
    for token in engine.chat([{"role": "user", "content": "What is the capital of Japan?"}]):
        print(token.text, end="", flush=True)

`import edgekiln` is cheap: `Engine`, `Session` and `build` import their dependencies when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from edgekiln.errors import EdgekilnError, EngineError, RequestError, SourceError, UnsupportedModelError
from edgekiln.telemetry import disable_telemetry

if TYPE_CHECKING:
    from edgekiln.api import Engine
    from edgekiln.api_build import build
    from edgekiln.batch import BatchAnswer
    from edgekiln.session import Session

# The only place of the version: pyproject.toml and CMake read it here.
__version__ = "0.1.0"
__all__ = [
    "BatchAnswer",
    "EdgekilnError",
    "Engine",
    "EngineError",
    "RequestError",
    "Session",
    "SourceError",
    "UnsupportedModelError",
    "__version__",
    "build",
]
_LAZY = {
    "BatchAnswer": "edgekiln.batch",
    "Engine": "edgekiln.api",
    "Session": "edgekiln.session",
    "build": "edgekiln.api_build",
}

disable_telemetry()  # before any module of edgekiln imports a library


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
