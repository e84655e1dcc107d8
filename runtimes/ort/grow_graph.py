"""Copies of device memory, with the graph `grow` of an engine: ONNX Runtime has no function for them."""

import threading

import numpy as np

from edgekiln.runtimes.ort.library import onnxruntime as ort

CACHE_DTYPE = np.dtype(np.float16)
Shape = tuple[int, int, int, int]
Memory = tuple[str, int]  # ONNX Runtime's name of a device, and an address


class GrowGraph:
    """Runs the graph, which copies [B, KV, P, D] and appends zeros along axis 2.

    Attributes:
        device: ONNX Runtime's name of the device that holds the buffers, "cuda" or "cpu".
    """

    def __init__(self, session: ort.InferenceSession, device: str, lock: threading.Lock) -> None:
        """Copy with a session; `lock` is held during a run."""
        self.device = device
        self._session = session
        self._lock = lock

    def grow(self, buffer: ort.OrtValue | None, shape: Shape) -> ort.OrtValue:
        """A new buffer.

        Args:
            buffer: the old buffer, [B, KV, P, D] with P below the new capacity; None for an empty one.
            shape: [B, KV, capacity, D].

        Returns:
            A float16 buffer of `shape` with the old values along axis 2, then zeros.
        """
        used = buffer.shape()[2] if buffer is not None else 0
        batch, heads, capacity, size = shape
        result = ort.OrtValue.ortvalue_from_shape_and_type(list(shape), CACHE_DTYPE, self.device, 0)
        binding = ort.IOBinding(self._session)
        if buffer is None:
            binding.bind_cpu_input("past", np.zeros((batch, heads, 0, size), CACHE_DTYPE))
        else:
            binding.bind_ortvalue_input("past", buffer)
        binding.bind_ortvalue_output("present", result)
        self._run(binding, [batch, heads, capacity - used, size])
        return result

    def copy(self, source: Memory | None, target: Memory, size: int) -> None:
        """Copy `size` bytes, an even number, or write zeros where there is no source."""
        shape = [1, 1, size // CACHE_DTYPE.itemsize, 1]
        empty = [1, 1, 0, 1]
        binding = ort.IOBinding(self._session)
        if source is None:
            binding.bind_cpu_input("past", np.zeros(empty, CACHE_DTYPE))
        else:
            binding.bind_input("past", source[0], 0, CACHE_DTYPE, shape, source[1])
        binding.bind_output("present", target[0], 0, CACHE_DTYPE, shape, target[1])
        self._run(binding, shape if source is None else empty)

    def _run(self, binding: ort.IOBinding, zeros: list[int]) -> None:
        binding.bind_cpu_input("zeros", np.array(zeros, dtype=np.int64))
        with self._lock:
            self._session.run_with_iobinding(binding)
