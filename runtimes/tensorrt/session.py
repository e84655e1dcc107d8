"""A TensorRT plan on a device: its execution contexts, their tensor addresses and shapes, and errors of a run."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgekiln.engine.manifest import EngineManifest
from edgekiln.errors import EdgekilnError
from edgekiln.runtimes.cuda.device import Device
from edgekiln.runtimes.tensorrt.library import TensorRTLibrary
from edgekiln.runtimes.tensorrt.profiles import ITEM_SIZES, Shape, cache_parts, profile_for, read_profiles


@dataclass(frozen=True)
class Tensors:
    """The tensors of a run.

    Attributes:
        addresses: device address of each input and output, by name.
        shapes: shape of each input, by name.
    """

    addresses: Mapping[str, int]
    shapes: Mapping[str, Shape]


class TensorRTSession:
    """A deserialized plan (ICudaEngine) on a device.

    Attributes:
        lock: held during a run, which uses the device's stream and shared staging memory.
        parts: keys and values of each layer.
        itemsize: bytes of an element of the KV cache.
        profiles: the plan's optimization profiles.
    """

    def __init__(self, plan: Any, library: TensorRTLibrary, device: Device, manifest: EngineManifest) -> None:
        self.plan = plan
        self.library = library
        self.device = device
        self.io = manifest.io
        self.vocab_size = manifest.architecture.vocab_size
        self.parts = cache_parts(manifest)
        self.itemsize = ITEM_SIZES[manifest.kv_cache.dtype]
        self.profiles = read_profiles(plan, manifest.io)
        self.lock = threading.Lock()
        self._contexts: dict[int, Any] = {}

    def shared_context(self, batch: int, tokens: int) -> Any:
        """The execution context for runs of [batch, tokens] ids, one per profile. Set its tensors before each run."""
        profile = profile_for(self.profiles, batch, tokens)
        if profile not in self._contexts:
            self._contexts[profile] = self._make_context(profile, replay=False)
        return self._contexts[profile]

    def replay_context(self, batch: int, tokens: int) -> Any:
        """A new execution context for [batch, tokens] ids whose tensors will not change, as CUDA graphs require."""
        return self._make_context(profile_for(self.profiles, batch, tokens), replay=True)

    def set_tensors(self, context: Any, tensors: Tensors) -> None:
        """Set the input shapes and tensor addresses of a context.

        Raises:
            EdgekilnError: TensorRT refuses a shape or an address.
        """
        for name, shape in tensors.shapes.items():
            if not context.set_input_shape(name, shape):
                raise EdgekilnError(f"the engine takes no {name} of shape {list(shape)}: {self.library.last_errors()}")
        for name, address in tensors.addresses.items():
            if not context.set_tensor_address(name, address):
                raise EdgekilnError(f"the engine takes no address for {name}: {self.library.last_errors()}")

    def enqueue(self, context: Any) -> None:
        """Queue a run on the device's stream.

        Raises:
            EdgekilnError: TensorRT refuses to run.
        """
        if not context.execute_async_v3(self.device.stream):
            raise EdgekilnError(f"{self.library.name} failed while running the engine: {self.library.last_errors()}")

    def _make_context(self, profile: int, replay: bool) -> Any:
        context = self.library.make_context(self.plan, replay)
        if not context.set_optimization_profile_async(profile, self.device.stream):
            raise EdgekilnError(f"the engine takes no profile {profile}: {self.library.last_errors()}")
        self.device.synchronize()
        return context
