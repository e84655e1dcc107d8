"""Which layers of a GGUF model have a sliding window."""

from edgekiln.sources.gguf.metadata import Metadata

_PATTERN = "attention.sliding_window_pattern"


def layer_types(metadata: Metadata, layers: int, period: int) -> list[str]:
    """The layers with a sliding window, by a period or by one flag a layer (llama.cpp's set_swa_pattern).

    With a period n, the last of every n layers attends to everything; with n = 0, none does.

    Args:
        metadata: of the file.
        layers: number of layers.
        period: of a file without the key.

    Raises:
        SourceError: the pattern is neither.
    """
    if isinstance(metadata.file.get(f"{metadata.architecture}.{_PATTERN}"), list):
        flags = metadata.array(_PATTERN, layers) or []
        if not all(isinstance(flag, bool) or flag in (0, 1) for flag in flags):
            raise metadata.damaged(_PATTERN, flags, "one flag a layer")
        windowed = [bool(flag) for flag in flags]
    else:
        found = metadata.number(_PATTERN, period, zero=True)
        windowed = [not found or layer % found < found - 1 for layer in range(layers)]
    return ["sliding_attention" if window else "full_attention" for window in windowed]
