"""The RoPE parameters of a configuration, as transformers keeps them."""

from collections.abc import Iterator
from typing import Any

from transformers import PretrainedConfig


def rope_parameters(config: PretrainedConfig) -> Iterator[dict[str, Any]]:
    """The RoPE parameters of a configuration; some families have them for each type of layer."""
    parameters = getattr(config, "rope_parameters", None)
    if isinstance(parameters, dict):
        yield parameters
        yield from (part for part in parameters.values() if isinstance(part, dict))


def rope_types(config: PretrainedConfig) -> set[str]:
    """The types of RoPE that a configuration names, for all its layers."""
    return {kind for parameters in rope_parameters(config) if isinstance(kind := parameters.get("rope_type"), str)}
