"""Sampling defaults in a GGUF file: llama.cpp's keys "general.sampling.*"."""

from typing import Any

from edgekiln.engine.manifest import SamplingDefaults
from edgekiln.errors import SourceError, UnsupportedModelError, first_line
from edgekiln.sources.gguf.reader import GgufFile

_PREFIX = "general.sampling."
_FIELDS = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_repeat": "repetition_penalty",
}
# Keys that change nothing at the given values; None stands for every value, for parameters of samplers that are off.
_NEUTRAL: dict[str, tuple[Any, ...] | None] = {
    "mirostat": (0,),
    "mirostat_eta": None,
    "mirostat_tau": None,
    "penalty_last_n": None,
    "sequence": None,
    "xtc_probability": (0,),
    "xtc_threshold": None,
}


def sampling_defaults(file: GgufFile) -> SamplingDefaults:
    """Read the sampling defaults.

    Raises:
        SourceError: a value is out of range.
        UnsupportedModelError: a sampler that edgekiln does not have.
    """
    values: dict[str, Any] = {}
    for name, metadata in file.metadata.items():
        key = name.removeprefix(_PREFIX)
        if key == name:
            continue
        if key in _FIELDS:
            values[_FIELDS[key]] = metadata.value
        elif _NEUTRAL.get(key, ()) is not None and metadata.value not in (_NEUTRAL.get(key) or ()):
            raise UnsupportedModelError(
                f"{file.path} sets {name} = {metadata.value!r:.60}, a sampler that edgekiln does not have: "
                "convert the model without it"
            )
    # llama.cpp's values that switch a sampler off.
    off = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0, "temperature": 0.0}
    kept = {field: value for field, value in values.items() if value != off[field]}
    if isinstance(kept.get("top_k"), int) and kept["top_k"] < 0:
        del kept["top_k"]
    try:
        return SamplingDefaults(**kept)
    except ValueError as error:
        raise SourceError(
            f"{file.path} has sampling defaults ({_PREFIX}*) that are out of range: {first_line(error)}"
        ) from error
