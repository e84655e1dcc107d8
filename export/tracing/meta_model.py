"""A model without weights: parameters on the meta device, buffers computed.

Parameters stand-ins cost no memory, so that a trace peaks far below the checkpoint's size. Buffers that no checkpoint
holds (rotary frequencies, embedding scales) are made real, because they are what the graph's constants come from.
"""

import contextlib
import copy
import inspect
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from optimum.utils import NormalizedConfigManager, NormalizedTextConfig
from transformers import PretrainedConfig, PreTrainedModel

from edgekiln.errors import UnsupportedModelError, first_line
from edgekiln.export.tracing import attention
from edgekiln.export.tracing import moe as experts


def build_meta_model(config: PretrainedConfig) -> PreTrainedModel:
    """Instantiate the causal language model of `config` with our attention and no weights.

    Raises:
        UnsupportedModelError: no such class in transformers, or one that bypasses transformers' attention interface.
    """
    # The class writes our attention into the configuration it gets.
    config = copy.deepcopy(config)
    model_class = _model_class(config)
    with torch.device("meta"), warnings.catch_warnings(), explained(model_class, config):
        warnings.simplefilter("ignore")
        model = model_class._from_config(
            config,
            attn_implementation=attention.IMPLEMENTATION,
            experts_implementation=experts.IMPLEMENTATION,
            dtype=torch.float32,
        )
    compute_buffers(model)
    return model.eval()


# What config.layer_types calls layers that keep keys and values.
_ATTENTION_LAYERS = {"attention", "full_attention", "sliding_attention", "chunked_attention"}


@contextlib.contextmanager
def explained(model_class: type[PreTrainedModel], config: PretrainedConfig) -> Iterator[None]:
    """What transformers raises inside the block becomes an UnsupportedModelError that says why the model is one."""
    try:
        yield
    except UnsupportedModelError:
        raise
    except Exception as error:
        raise unsupported(model_class, config, error) from error


def unsupported(
    model_class: type[PreTrainedModel], config: PretrainedConfig, error: Exception | None = None
) -> UnsupportedModelError:
    """The error that names what of a model the graph cannot carry, judged by what its class says of itself."""
    kinds = sorted(set(getattr(config, "layer_types", None) or ()) - _ATTENTION_LAYERS)
    if kinds or model_class._is_stateful:
        layers = f"{', '.join(kinds)} layers" if kinds else "layers"
        return UnsupportedModelError(
            f"{config.model_type} has {layers} that keep another state than keys and values, "
            "which the graph cannot carry yet"
        )
    if not model_class._supports_attention_backend:
        return UnsupportedModelError(
            f"{config.model_type} computes attention by itself (ALiBi, for one) and not through transformers' "
            "attention interface, which the graph cannot carry yet"
        )
    if attention.MaskNote.__name__ in str(error):
        return UnsupportedModelError(
            f"{config.model_type} makes its attention mask by itself, which the graph cannot carry yet"
        )
    return UnsupportedModelError(f"cannot trace {config.model_type}: {first_line(error)}")


def _model_class(config: PretrainedConfig) -> type[PreTrainedModel]:
    from optimum.exporters.tasks import TasksManager

    auto = TasksManager.get_model_class_for_task("text-generation", framework="pt", model_type=config.model_type)
    if type(config) not in auto._model_mapping:
        raise UnsupportedModelError(f"transformers has no causal language model for {config.model_type!r}")
    return auto._model_mapping[type(config)]


def compute_buffers(model: PreTrainedModel) -> None:
    """Move every buffer of a meta model to the CPU with the value its module gives it at initialisation."""
    _compute_buffers(model, model)


def _compute_buffers(module: torch.nn.Module, owner: PreTrainedModel) -> None:
    """`owner` is the innermost model around `module`: a model within a model initialises its own modules."""
    if isinstance(module, PreTrainedModel):
        owner = module
    for child in module.children():
        _compute_buffers(child, owner)
    names = [name for name, buffer in module._buffers.items() if buffer is not None and buffer.device.type == "meta"]
    for name in names:
        buffer = module._buffers[name]
        assert buffer is not None
        # NaN shows in every test where a family's _init_weights forgets one of its buffers.
        fill = float("nan") if buffer.dtype.is_floating_point else 0
        module._buffers[name] = torch.full(buffer.shape, fill, dtype=buffer.dtype, device="cpu")
    if names:
        with torch.no_grad():
            owner._init_weights(module)


def normalized(config: PretrainedConfig) -> Any:
    """optimum's view of a config: the same attribute names for every family."""
    try:
        return NormalizedConfigManager.get_normalized_config_class(config.model_type)(config)
    except KeyError:
        return NormalizedTextConfig(config)


def takes(model: PreTrainedModel, argument: str) -> bool:
    """Whether the model's forward has a parameter of that name."""
    return argument in inspect.signature(model.forward).parameters
