"""Build options of the targets trt and trt-rtx. Imports nothing heavy."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from edgekiln.errors import RequestError

CacheLayout = Literal["in-place", "growing"]
HalfType = Literal["float16", "bfloat16"]
ComputeCapability = tuple[int, int]
# Default of TensorRT-RTX, which compiles without a GPU: Ampere, Ada and Blackwell.
DEFAULT_CAPABILITIES: tuple[ComputeCapability, ...] = ((8, 0), (8, 6), (8, 9), (12, 0))


@dataclass(frozen=True)
class TensorRTOptions:
    """Options of targets `trt` and `trt-rtx`.

    Attributes:
        capabilities: compute capabilities of the GPUs that the plan is compiled for; None is the default. For
            TensorRT-RTX only: TensorRT compiles for the GPU that it runs on.
        cache: `in-place` has one buffer of all positions for past and present; `growing` appends, which every version
            takes.
        dtype: of activations, KV cache and float weights.
        max_batch: largest number of sequences in a decode step.
        chunk: largest number of prompt tokens in a prefill step.
        workspace_mb: limit of the memory for intermediate values, in MB of 10^6 bytes; None is no limit.
        timing_cache: file of kernel timings, read before and written after the build; TensorRT only.
        version_compatible: the plan runs in later versions of the same major release; TensorRT only.
        hardware_compatible: the plan runs on every GPU from Ampere on; TensorRT only.
        strip_weights: the plan holds no weights; they are refitted from the engine's graph when it is loaded.
        refit: the weights of the plan can be replaced.

    Raises:
        RequestError: a value is out of range.
    """

    capabilities: tuple[ComputeCapability, ...] | None = None
    cache: CacheLayout = "in-place"
    dtype: HalfType = "float16"
    max_batch: int = 4
    chunk: int = 512
    workspace_mb: int | None = None
    timing_cache: Path | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    strip_weights: bool = False
    refit: bool = False

    def __post_init__(self) -> None:
        for name, value, kind in (("cache", self.cache, CacheLayout), ("dtype", self.dtype, HalfType)):
            if value not in get_args(kind):
                raise RequestError(f"{name} must be one of {', '.join(get_args(kind))}, got {value}")
        for name, size in (("max batch", self.max_batch), ("chunk", self.chunk), ("workspace", self.workspace_mb)):
            if size is not None and size < 1:
                raise RequestError(f"{name} must be at least 1, got {size}")

    @property
    def chosen_capabilities(self) -> tuple[ComputeCapability, ...]:
        """The compute capabilities that TensorRT-RTX compiles for."""
        return self.capabilities or DEFAULT_CAPABILITIES

    def check_target(self, target: str) -> None:
        """Check that `target` supports these options.

        Raises:
            RequestError: an option is for another target; the message names it.
        """
        if target == "trt":
            if self.capabilities is not None:
                raise RequestError("--sm is for target trt-rtx: TensorRT compiles for the GPU that it runs on")
        elif target == "trt-rtx":
            if (self.refit or self.strip_weights) and len(self.chosen_capabilities) > 1:
                raise RequestError(
                    "TensorRT-RTX compiles --refit and --strip-weights for one compute capability: give one with --sm"
                )
            for flag, given in (
                ("--timing-cache", self.timing_cache),
                ("--version-compatible", self.version_compatible),
                ("--hardware-compatible", self.hardware_compatible),
            ):
                if given:
                    raise RequestError(
                        f"{flag} is for target trt: TensorRT-RTX picks kernels where the plan is loaded; "
                        "choose GPUs with --sm"
                    )
        elif self != TensorRTOptions():
            raise RequestError(f"options of TensorRT are for targets trt and trt-rtx, not {target}: leave them out")


def parse_capabilities(text: str) -> tuple[ComputeCapability, ...]:
    """Parse a list of compute capabilities, such as `86,89,120` or `8.6, 12.0`; duplicates are dropped.

    Raises:
        RequestError: a part is not a compute capability; the message names it.
    """
    found = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(?:sm_?)?(\d{1,2})\.?(\d)\s*", part, re.IGNORECASE)
        if not match:
            raise RequestError(f"sm takes compute capabilities such as 86,89,120, got {part.strip() or text!r}")
        found.append((int(match[1]), int(match[2])))
    return tuple(dict.fromkeys(found))
