"""The values of a config.json that are checked before transformers reads it.

transformers checks the types of many fields, but not that numbers are finite or of a size that a model can have, and it
makes one module for each layer that a configuration promises. These tables hold for all families: a field that a family
does not have is not in its config.json.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig

from edgekiln.engine.manifest import MAX_TOKENS
from edgekiln.errors import SourceError

_Check = Callable[[Any], bool]
# Parts of a config.json that can hold the configuration of the text decoder, as in get_text_config of transformers.
_TEXT_PARTS = ("text_config", "decoder", "generator")
_LAYER_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
# Fields of models whose layers run several times, and whose counts are those of the runs or of parts of layers.
_COUNTS_OTHERWISE = {"num_layers_per_stack", "n_recurrent_layers"}
_LAYER_INDEX = re.compile(r"\.(\d+)\.")
_MAX_LABELS = 1 << 20
_MAY_BE_INFINITE = ("time_step_limit", "time_step_max")


def _integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _size(value: Any) -> bool:
    return _integer(value) and 1 <= value <= MAX_TOKENS


def _sizes(value: Any) -> bool:
    """A size, or one for each layer, where 0 stands for none."""
    return all(_integer(item) and 0 <= item <= MAX_TOKENS for item in value) if _list(value) else _size(value)


def _positive(value: Any) -> bool:
    return _number(value) and value > 0


def _not_negative(value: Any) -> bool:
    return _number(value) and value >= 0


def _list(value: Any) -> bool:
    return isinstance(value, list)


def _texts(value: Any) -> bool:
    return _list(value) and all(isinstance(item, str) for item in value)


def _object(value: Any) -> bool:
    return isinstance(value, dict)


def _numbers(value: Any) -> bool:
    return _list(value) and all(_number(item) for item in value)


def _token_ids(value: Any) -> bool:
    """A token id or a list of them; -1 stands for none in old configurations."""
    return all(_integer(item) and -1 <= item < MAX_TOKENS for item in (value if _list(value) else [value]))


def _float_type(value: Any) -> bool:
    found = getattr(torch, value.removeprefix("torch."), None) if isinstance(value, str) else None
    return value == "auto" or (isinstance(found, torch.dtype) and found in _FLOAT_TYPES)


# Types of a whole model; those of 8 bits are for quantized weights only.
_FLOAT_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_SIZE = (_size, f"an integer from 1 to {MAX_TOKENS}")
_SIZES = (_sizes, f"an integer from 1 to {MAX_TOKENS}, or a list of integers")
_TOKEN_IDS = (_token_ids, "a token id or a list of them")
_NUMBER = (_number, "a number")
_POSITIVE = (_positive, "a number more than 0")
_TOKEN_ID_FIELDS = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), _TOKEN_IDS)
# Field -> its check, and what passes it. null is legal everywhere: transformers then takes its default.
_FIELDS: dict[str, tuple[_Check, str]] = {
    **dict.fromkeys(("vocab_size", "hidden_size", "n_embd", "head_dim", "n_head", "n_heads", "num_heads"), _SIZE),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", *_LAYER_COUNTS), _SIZE),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "intermediate_size", "n_inner"), _SIZES),
    **_TOKEN_ID_FIELDS,
    **dict.fromkeys(
        ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "layernorm_epsilon", "norm_eps", "norm_epsilon"),
        (_not_negative, "a number that is not negative"),
    ),
    **dict.fromkeys(("rope_theta", "rotary_emb_base", "rope_local_base_freq"), _POSITIVE),
    **dict.fromkeys(
        ("rope_scaling", "rope_parameters", "auto_map", "text_config", "quantization_config"), (_object, "an object")
    ),
    **dict.fromkeys(("architectures", "layer_types"), (_texts, "a list of texts")),
    **dict.fromkeys(("torch_dtype", "dtype"), (_float_type, "the name of a float type")),
    "model_type": (lambda value: isinstance(value, str), "a text"),
    "sliding_window": (_integer, "an integer"),
    # transformers makes a name for each label.
    "num_labels": (lambda value: _integer(value) and 0 <= value <= _MAX_LABELS, f"an integer from 0 to {_MAX_LABELS}"),
}
_ROPE_FIELDS: dict[str, tuple[_Check, str]] = {
    **dict.fromkeys(("rope_type", "type"), (lambda value: isinstance(value, str), "a text")),
    **dict.fromkeys(("rope_theta", "factor", "partial_rotary_factor", "original_max_position_embeddings"), _POSITIVE),
    **dict.fromkeys(("attention_factor", "beta_fast", "beta_slow", "low_freq_factor", "high_freq_factor"), _NUMBER),
    **dict.fromkeys(("mscale", "mscale_all_dim"), _NUMBER),
    **dict.fromkeys(("short_factor", "long_factor"), (_numbers, "a list of numbers")),
}


def check_types(raw: Mapping[str, Any], where: object) -> None:
    """Check the values of a config.json that do not depend on the weights.

    Args:
        raw: config.json.
        where: the file, for error messages.

    Raises:
        SourceError: a value of another type, a number that is not finite, or a size that no model has; the message
            names the first one.
    """
    for name, value in _values(raw, ""):
        if isinstance(value, float) and not math.isfinite(value) and name.split(".")[-1] not in _MAY_BE_INFINITE:
            raise refused(where, name, value, "a finite number")
    for prefix, part in _parts(raw):
        _check_fields(part, _FIELDS, prefix, where)
        for field in ("rope_scaling", "rope_parameters"):
            for kind, parameters in _rope_parts(part.get(field)):
                _check_fields(parameters, _ROPE_FIELDS, f"{prefix}{field}.{kind}", where)
        window = part.get("sliding_window")
        if window is not None and window < 1 and part.get("use_sliding_window") is not False:
            raise refused(where, f"{prefix}sliding_window", window, "at least 1, or null for no window")


def check_token_ids(raw: Mapping[str, Any], where: object) -> None:
    """Check the token ids of a config.json or generation_config.json.

    Raises:
        SourceError: one is no integer, or no id of any vocabulary; -1 stands for none.
    """
    _check_fields(raw, _TOKEN_ID_FIELDS, "", where)


def check_layers(raw: Mapping[str, Any], tensors: Iterable[str], path: Path) -> None:
    """Check that a config.json promises no more layers than the checkpoint has tensors of.

    Args:
        raw: config.json, see `check_types`.
        tensors: names of the checkpoint's tensors.
        path: the file, for error messages.

    Raises:
        SourceError: it promises more.
    """
    found = max((int(index) + 1 for name in tensors for index in _LAYER_INDEX.findall(name)[:1]), default=0)
    for prefix, part in _parts(raw):
        if _COUNTS_OTHERWISE & part.keys():
            continue
        for field in _LAYER_COUNTS:
            if (count := part.get(field)) is not None and count > found:
                raise SourceError(
                    f"{path} has {prefix}{field} {count}, and the weights beside it are those of {found} layers: "
                    "the two do not belong together"
                )


def check_counts(config: PretrainedConfig, path: Path) -> None:
    """Check the numbers of attention heads and experts of a configuration against each other.

    Raises:
        SourceError: the heads cannot share the key-value heads, or a token has more experts than there are.
    """
    heads, kv_heads = (getattr(config, name, None) for name in ("num_attention_heads", "num_key_value_heads"))
    if isinstance(heads, int) and isinstance(kv_heads, int) and (kv_heads < 1 or heads % kv_heads):
        raise SourceError(
            f"{path} has num_attention_heads {heads}, which must be a multiple of num_key_value_heads {kv_heads}: "
            "correct it"
        )
    for name in ("num_local_experts", "num_experts", "n_routed_experts"):
        chosen, experts = getattr(config, "num_experts_per_tok", None), getattr(config, name, None)
        if isinstance(chosen, int) and isinstance(experts, int) and experts and not 1 <= chosen <= experts:
            raise refused(path, "num_experts_per_tok", chosen, f"from 1 to {name} {experts}")


def refused(where: object, name: str, value: Any, wanted: str) -> SourceError:
    """The error for a value of a config.json that is not what is `wanted`."""
    return SourceError(f"{where} has {name} {value!r:.60}, which must be {wanted}: correct it")


def _parts(raw: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The configuration and that of its text decoder, with the prefix of their fields in messages.

    A field of both is the decoder's: beside it, the same name may mean something else, such as a length in seconds.
    """
    parts = {name: part for name in _TEXT_PARTS if isinstance(part := raw.get(name), dict)}
    yield "", {key: value for key, value in raw.items() if not any(key in part for part in parts.values())}
    yield from ((f"{name}.", part) for name, part in parts.items())


def _check_fields(
    part: Mapping[str, Any], fields: Mapping[str, tuple[_Check, str]], prefix: str, where: object
) -> None:
    for field, (check, wanted) in fields.items():
        if (value := part.get(field)) is not None and not check(value):
            raise refused(where, f"{prefix}{field}", value, wanted)


def _rope_parts(value: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """RoPE parameters, which some families have for each type of layer."""
    if isinstance(value, dict):
        yield "", value
        yield from ((f"{kind}.", part) for kind, part in value.items() if isinstance(part, dict))


def _values(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every value that is no object, with its dotted name; the items of a list have the name of the list."""
    for key, item in value.items() if isinstance(value, dict) else ((None, entry) for entry in value):
        inner = name if key is None else f"{name}.{key}" if name else key
        if isinstance(item, dict | list):
            yield from _values(item, inner)
        else:
            yield inner, item
