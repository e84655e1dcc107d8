"""A TensorRT engine ready to run: its execution contexts, what is bound to them, and why a run failed."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgekiln.engine.manifest import EngineManifest
from edgekiln.errors import EdgekilnError
from edgekiln.runtimes.cuda.device import Device
from edgekiln.runtimes.tensorrt.library import Library
from edgekiln.runtimes.tensorrt.profiles import ITEM_SIZES, Shape, cache_parts, profile_for, read_profiles


@dataclass(frozen=True)
class Bound:
    """Where tensors are, and the shapes of the inputs among them; by name."""

    addresses: Mapping[str, int]
    shapes: Mapping[str, Shape]


class Session:
    """An engine on a device. Runs are one at a time, under `lock`."""

    def __init__(self, engine: Any, library: Library, device: Device, manifest: EngineManifest) -> None:
        self.engine = engine
        self.library = library
        self.device = device
        self.io = manifest.io
        self.vocab_size = manifest.architecture.vocab_size
        self.parts = cache_parts(manifest)
        self.itemsize = ITEM_SIZES[manifest.kv_cache.dtype]
        self.profiles = read_profiles(engine, manifest.io)
        self.lock = threading.Lock()
        self._contexts: dict[int, Any] = {}

    def context(self, rows: int, tokens: int) -> Any:
        """The context for runs of that size, made on first use; bind to it anew before each run."""
        profile = profile_for(self.profiles, rows, tokens)
        if profile not in self._contexts:
            self._contexts[profile] = self._make_context(profile, replayed=False)
        return self._contexts[profile]

    def own_context(self, rows: int, tokens: int) -> Any:
        """A context for one size and one set of addresses, which a recording may go on using."""
        return self._make_context(profile_for(self.profiles, rows, tokens), replayed=True)

    def bind(self, context: Any, bound: Bound) -> None:
        """Say where each tensor is.

        Raises:
            EdgekilnError: the engine does not take a shape or an address.
        """
        for name, shape in bound.shapes.items():
            if not context.set_input_shape(name, shape):
                raise EdgekilnError(f"the engine takes no {name} of shape {list(shape)}: {self.library.last_errors()}")
        for name, address in bound.addresses.items():
            if not context.set_tensor_address(name, address):
                raise EdgekilnError(f"the engine takes no address for {name}: {self.library.last_errors()}")

    def enqueue(self, context: Any) -> None:
        """Queue a run.

        Raises:
            EdgekilnError: the library refuses.
        """
        if not context.execute_async_v3(self.device.stream):
            raise EdgekilnError(f"{self.library.name} failed while running the engine: {self.library.last_errors()}")

    def _make_context(self, profile: int, replayed: bool) -> Any:
        context = self.library.make_context(self.engine, replayed)
        if not context.set_optimization_profile_async(profile, self.device.stream):
            raise EdgekilnError(f"the engine takes no profile {profile}: {self.library.last_errors()}")
        self.device.synchronize()
        return context
