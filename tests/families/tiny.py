"""Tiny configurations and random models of the types in configs.py."""

import dataclasses
from itertools import cycle, islice
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, AutoModelForMultimodalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES

from edgekiln.sources.composite import without_missing_libraries
from families.configs import COMMON, ENCODER_COMMON, LATENT, ROWS

# Layers of a model that has every kind of layer of its class.
_DEEP = 12
# Prefixes of the names of configs in a config that describe encoders of images and sound.
_ENCODERS = ("vision", "audio", "vq")


def tiny_config(model_type: str, **overrides: Any) -> Any:
    """A config of a few thousand parameters: the common sizes, the type's row and `overrides`.

    Layers alternate between the kinds of layer that the config class itself chooses for a deep model.
    """
    config_class = CONFIG_MAPPING[model_type]
    values = _values(config_class, {**ROWS.get(model_type, {}), **overrides}, COMMON)
    return config_class(**values)


def tiny_model(model_type: str, **overrides: Any) -> Any:
    """A random model, with `large_weights`: of the class that checkpoints of the type are, which may take images, too.

    Encoders of images that need a library that is missing are left out.
    """
    torch.manual_seed(0)
    config = tiny_config(model_type, **overrides)
    whole = model_type in MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES
    auto_class = AutoModelForMultimodalLM if whole else AutoModelForCausalLM
    with without_missing_libraries():
        model = auto_class.from_config(config, attn_implementation="eager").float().eval()
    return large_weights(model)


def large_weights(model: Any) -> Any:
    """Give a model random weights so large that attention is far from uniform and wrong masks or angles show."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            spread = torch.randn_like(parameter)
            if parameter.dim() == 1:
                parameter.add_(0.1 * spread)
            else:
                parameter.copy_(spread * (0.5 if "embed" in name or "wte" in name else 0.2))
    return model


def _values(config_class: Any, overrides: dict[str, Any], common: dict[str, Any]) -> dict[str, Any]:
    """Arguments for `config_class`."""
    defaults = {field.name: field.default for field in dataclasses.fields(config_class)}
    fields = defaults.keys()
    if defaults.get("head_dim", 0) is None:
        fields -= {"head_dim"}  # the class divides the hidden size by the heads, whatever they are
    values = {name: value for name, value in common.items() if name in fields}
    if "kv_lora_rank" in fields:
        values |= {name: value for name, value in LATENT.items() if name in fields}
    for name, declared in config_class.sub_configs.items():
        inner = overrides.get(name, {})
        if declared is AutoConfig and "model_type" not in inner:
            continue
        inner_class = CONFIG_MAPPING[inner["model_type"]] if declared is AutoConfig else declared
        inner = {**ROWS.get(inner_class.model_type, {}), **inner}
        values[name] = _values(inner_class, inner, ENCODER_COMMON if name.startswith(_ENCODERS) else COMMON)
    values |= {name: value for name, value in overrides.items() if name not in config_class.sub_configs}
    if "layer_types" in fields and "layer_types" not in values and "num_hidden_layers" in values:
        kinds = dict.fromkeys(config_class(num_hidden_layers=_DEEP).layer_types or ())
        if len(kinds) > 1:
            if "num_hidden_layers" not in overrides:
                values["num_hidden_layers"] = max(values["num_hidden_layers"], 2 * len(kinds))
            values["layer_types"] = list(islice(cycle(kinds), values["num_hidden_layers"]))
    return values
