"""A model without weights: parameters on the meta device, buffers computed.

Parameters stand-ins cost no memory, so that a trace peaks far below the checkpoint's size. Buffers that no checkpoint
holds (rotary frequencies, embedding scales) are made real, because they are what the graph's constants come from.
"""

import inspect
import warnings
from typing import Any

import torch
from optimum.utils import NormalizedConfigManager, NormalizedTextConfig
from transformers import PretrainedConfig, PreTrainedModel

from edgekiln.errors import UnsupportedModelError
from edgekiln.export import attention, experts


def build_skeleton(config: PretrainedConfig) -> PreTrainedModel:
    """Instantiate the causal language model of `config` with our attention and no weights.

    Raises:
        UnsupportedModelError: no such class in transformers, or one that bypasses transformers' attention interface.
    """
    model_class = _model_class(config)
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = model_class._from_config(
                config,
                attn_implementation=attention.IMPLEMENTATION,
                experts_implementation=experts.IMPLEMENTATION,
                dtype=torch.float32,
            )
    except (ValueError, ImportError) as error:
        raise UnsupportedModelError(
            f"{config.model_type} does not take an attention function from outside: {str(error).splitlines()[0]}"
        ) from error
    compute_buffers(model)
    return model.eval()


def _model_class(config: PretrainedConfig) -> type[PreTrainedModel]:
    from optimum.exporters.tasks import TasksManager

    auto = TasksManager.get_model_class_for_task("text-generation", framework="pt", model_type=config.model_type)
    if type(config) not in auto._model_mapping:
        raise UnsupportedModelError(f"transformers has no causal language model for {config.model_type!r}")
    return auto._model_mapping[type(config)]


def compute_buffers(model: PreTrainedModel) -> None:
    """Move every buffer of a meta model to the CPU with the value its module gives it at initialisation."""
    for module in model.modules():
        names = [
            name for name, buffer in module._buffers.items() if buffer is not None and buffer.device.type == "meta"
        ]
        for name in names:
            buffer = module._buffers[name]
            assert buffer is not None
            # NaN shows in every test where a family's _init_weights forgets one of its buffers.
            fill = float("nan") if buffer.dtype.is_floating_point else 0
            module._buffers[name] = torch.full(buffer.shape, fill, dtype=buffer.dtype, device="cpu")
        if names:
            with torch.no_grad():
                model._init_weights(module)


def normalized(config: PretrainedConfig) -> Any:
    """optimum's view of a config: the same attribute names for every family."""
    try:
        return NormalizedConfigManager.get_normalized_config_class(config.model_type)(config)
    except KeyError:
        return NormalizedTextConfig(config)


def takes(model: PreTrainedModel, argument: str) -> bool:
    """Whether the model's forward has a parameter of that name."""
    return argument in inspect.signature(model.forward).parameters
