"""Meta models: transformers models with parameters on the meta device and computed buffers.

Parameters on the meta device use no memory, so that a trace peaks far below the size of the checkpoint. Buffers that
checkpoints do not store (rotary frequencies, embedding scales) are computed, as they become constants of the graph.
"""

import contextlib
import copy
import inspect
import re
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from optimum.utils import NormalizedConfigManager, NormalizedTextConfig
from transformers import PretrainedConfig, PreTrainedModel

from edgekiln.errors import UnsupportedModelError
from edgekiln.export.tracing import attention, moe
from edgekiln.export.tracing.adapters import install_adapters
from edgekiln.export.tracing.rope import check_rope, fix_frequencies


def build_meta_model(config: PretrainedConfig, model_class: type[PreTrainedModel] | None = None) -> PreTrainedModel:
    """Instantiate the causal language model of `config` as a meta model with our attention and MoE functions.

    Args:
        config: configuration of a text decoder.
        model_class: its class; None for the one that transformers has for `config`.

    Raises:
        UnsupportedModelError: transformers has no such class, or the class does not use its attention interface.
    """
    check_rope(config)
    # The class writes the names of our functions into its config.
    config = copy.deepcopy(config)
    config.return_dict = True  # outputs have names, whatever the checkpoint says
    model_class = model_class or _model_class(config)
    with torch.device("meta"), warnings.catch_warnings(), explained(model_class, config):
        warnings.simplefilter("ignore")
        model = model_class._from_config(
            config,
            attn_implementation="eager",
            experts_implementation=moe.IMPLEMENTATION,
            dtype=torch.float32,
        )
    # Not before, as some classes look up their attention module by it.
    model.config._attn_implementation = attention.IMPLEMENTATION
    with explained(model_class, config):
        compute_buffers(model)
        install_adapters(model)
    fix_frequencies(model)
    _check_buffers(model)
    return model.eval()


# Values of config.layer_types for layers with a KV cache.
_ATTENTION_LAYERS = {
    "attention",
    "full_attention",
    "sliding_attention",
    "chunked_attention",
    "indexed_attention",
    "minimax_m3_sparse",
}


@contextlib.contextmanager
def explained(model_class: type[PreTrainedModel], config: PretrainedConfig) -> Iterator[None]:
    """Turn any error of transformers inside the block into the UnsupportedModelError of `unsupported`."""
    try:
        yield
    except UnsupportedModelError:
        raise
    except Exception as error:
        raise unsupported(model_class, config, error) from error


def unsupported(
    model_class: type[PreTrainedModel], config: PretrainedConfig, error: Exception | None = None
) -> UnsupportedModelError:
    """The error that names the unsupported part of a model, from the attributes of its class and config."""
    kinds = sorted(set(getattr(config, "layer_types", None) or ()) - _ATTENTION_LAYERS)
    if kinds or model_class._is_stateful:
        layers = f"{', '.join(kinds)} layers" if kinds else "layers"
        return UnsupportedModelError(
            f"{config.model_type} has {layers} that keep another state than keys and values, "
            "which edgekiln does not support yet"
        )
    if not model_class._supports_attention_backend:
        return UnsupportedModelError(
            f"{config.model_type} computes attention by itself and not through transformers' attention interface, "
            "which edgekiln does not support yet"
        )
    if attention.MaskSpec.__name__ in str(error):
        return UnsupportedModelError(
            f"{config.model_type} makes its attention mask by itself, which edgekiln does not support yet"
        )
    return error if isinstance(error, UnsupportedModelError) else not_traced(config, error)


# In messages of torch about code that reads the values of its tensors, or branches on them.
_READS_VALUES = re.compile(
    r"\.item\(\)|meta tensor|data.dependent|Could not (guard|extract)|_local_scalar_dense|unbacked", re.IGNORECASE
)


def not_traced(config: PretrainedConfig, error: Exception | None) -> UnsupportedModelError:
    """The error for a model of which torch.export makes no graph, without torch's own words.

    `error` stays the cause: raise the result `from` it.
    """
    if _READS_VALUES.search(str(error)):
        return UnsupportedModelError(
            f"{config.model_type} computes differently depending on the values or the length of its input, which "
            "edgekiln does not support yet"
        )
    return UnsupportedModelError(
        f"{config.model_type} with this configuration cannot be traced to a graph, so edgekiln does not support it yet"
    )


def _model_class(config: PretrainedConfig) -> type[PreTrainedModel]:
    from optimum.exporters.tasks import TasksManager

    try:
        auto = TasksManager.get_model_class_for_task("text-generation", framework="pt", model_type=config.model_type)
        found: type[PreTrainedModel] | None = auto._model_mapping.get(type(config), None)
    except (KeyError, ValueError, AttributeError, ImportError):
        found = None
    if found is None:
        raise UnsupportedModelError(f"transformers has no causal language model for {config.model_type!r}")
    return found


def _check_buffers(model: PreTrainedModel) -> None:
    """Refuse rotary frequencies that are not finite, which values of a configuration can cause."""
    for name, buffer in model.named_buffers():
        if name.endswith("inv_freq") and not torch.isfinite(buffer).all():
            raise UnsupportedModelError(
                f"{model.config.model_type} has rotary frequencies that are not finite: correct the RoPE parameters "
                "of its config.json"
            )


def compute_buffers(model: PreTrainedModel) -> None:
    """Compute every buffer of a meta model on the CPU, as its module initializes it."""
    _compute_buffers(model, model)


def _compute_buffers(module: torch.nn.Module, owner: PreTrainedModel) -> list[torch.Tensor]:
    """Compute the buffers of a module and all inside it, and return those that are still NaN.

    `owner` is the innermost PreTrainedModel around `module`, whose _init_weights initializes it. Some initialize
    buffers of the modules inside with the module around them.
    """
    if isinstance(module, PreTrainedModel):
        owner = module
    unset = [buffer for child in module.children() for buffer in _compute_buffers(child, owner)]
    for name, buffer in module._buffers.items():
        if buffer is not None and buffer.device.type == "meta":
            # A buffer that _init_weights does not set stays NaN, which every parity test shows.
            fill = float("nan") if buffer.dtype.is_floating_point else 0
            module._buffers[name] = torch.full(buffer.shape, fill, dtype=buffer.dtype, device="cpu")
            unset.append(module._buffers[name])  # type: ignore[arg-type]
    if unset:
        with torch.no_grad():
            owner._init_weights(module)
    return [buffer for buffer in unset if buffer.dtype.is_floating_point and bool(buffer.isnan().any())]


# Of a decoder that may have an encoder, whose layers and heads are what the common names say.
_DecoderConfig = NormalizedTextConfig.with_args(
    num_layers="decoder_layers", num_attention_heads="decoder_attention_heads"
)


def normalized(config: PretrainedConfig) -> Any:
    """The config with optimum's normalized attribute names, which are the same for every family."""
    if hasattr(config, "decoder_layers"):
        return _DecoderConfig(config)
    try:
        return NormalizedConfigManager.get_normalized_config_class(config.model_type)(config)
    except KeyError:
        return NormalizedTextConfig(config)


@contextlib.contextmanager
def called_modules(model: PreTrainedModel) -> Iterator[set[str]]:
    """Collect the names of the modules that are called inside the block.

    Of others, such as the attention of a decoder to an encoder, an engine has no weights.
    """
    called: set[str] = set()
    handles = [
        module.register_forward_pre_hook(lambda _module, _arguments, name=name: called.add(name))
        for name, module in model.named_modules()
    ]
    try:
        yield called
    finally:
        for handle in handles:
            handle.remove()


def takes(model: PreTrainedModel, argument: str) -> bool:
    """Whether the model's forward takes an argument of that name."""
    return argument in inspect.signature(model.forward).parameters
