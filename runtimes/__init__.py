"""Run engines: `open` loads one, `edgekiln.runtimes.generate` generates text with it.

The modules mirror cpp/src file by file. None of them imports torch, transformers or onnx.
"""

from edgekiln.runtimes.base import KernelsChoice, KVCache, Runtime
from edgekiln.runtimes.properties import Properties
from edgekiln.runtimes.registry import open_engine as open

__all__ = ["KVCache", "KernelsChoice", "Properties", "Runtime", "open"]
