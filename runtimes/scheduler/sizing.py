"""How much memory the sequences of a scheduler take, and the options that fit an engine into that of this machine."""

import bisect
from collections.abc import Callable
from dataclasses import replace

from edgekiln.engine.manifest import EngineManifest
from edgekiln.runtimes.cache_bytes import sequence_bytes, state_bytes
from edgekiln.runtimes.scheduler.options import SchedulerOptions
from edgekiln.runtimes.usable_memory import usable_memory
from edgekiln.targets import DEFAULT_TARGET


def slot_bytes(manifest: EngineManifest, tokens: int) -> int:
    """Bytes of the keys, values and states of a sequence of so many tokens."""
    return sequence_bytes(manifest, tokens) + 2 * state_bytes(manifest)


def sized_options(manifest: EngineManifest, options: SchedulerOptions) -> SchedulerOptions:
    """The options of an engine's scheduler: on CPUs, with a limit on memory, and with room from the start.

    Room that no token has used takes no memory there, and to grow the KV cache would stop all answers.
    """
    if manifest.target != DEFAULT_TARGET:
        return options
    usable = usable_memory()
    longest = options.longest_sequence(manifest.architecture.max_length)
    reserve = most_tokens(lambda tokens: options.slots * slot_bytes(manifest, tokens), usable, longest)
    return replace(options, kv_memory=options.kv_memory or max(1, usable // 2), reserve=reserve)


def most_tokens(nbytes: Callable[[int], int], limit: int | None, max_length: int) -> int:
    """Tokens of the longest sequence that fits into `limit` bytes, as `nbytes` counts them."""
    if limit is None:
        return max_length
    return max(1, bisect.bisect_right(range(1, max_length + 1), limit, key=nbytes))
