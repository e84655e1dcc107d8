"""Running engines: `open` one, then `generate` from it. Nothing here imports torch or transformers."""

from edgekiln.runtimes.base import KernelsChoice, KVCache, Properties, Runtime
from edgekiln.runtimes.registry import open_engine as open

__all__ = ["KVCache", "KernelsChoice", "Properties", "Runtime", "open"]
