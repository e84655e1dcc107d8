"""Trace any decoder of transformers, without its weights, to the canonical graph.

Inputs: input_ids int64[B, S], position_ids int64[B, S], past.N.key/value float32[B, KV, P, D], past_state.N float32
[B, ...]. Outputs: logits float32[B, 1, V] of the last position, present.N.key/value float32[B, KV, P + S, D],
present_state.N. Keys and values on the one hand and states on the other are numbered in the order of the layers that
keep them. The sequences of a batch are aligned at their last token. There is no mask input: the left padding of a
sequence follows from its last position.
"""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Final

import onnx_ir as ir
import torch
from transformers import PreTrainedModel

from edgekiln.errors import UnsupportedModelError
from edgekiln.export import canonical
from edgekiln.export.passes.common.simplify import Simplify
from edgekiln.export.passes.common.sizes_from_inputs import SizesFromInputs
from edgekiln.export.tracing.cache_trace import CacheShape, CacheTensors, CacheTrace, KeyValueShape, tracing
from edgekiln.export.tracing.layer_dedup import (
    LayerDedupError,
    find_layers,
    find_representatives,
    only_representatives,
)
from edgekiln.export.tracing.layer_expansion import expand_layers
from edgekiln.export.tracing.meta_model import explained, normalized, not_traced, takes, unsupported
from edgekiln.export.tracing.recurrent import TraceCache, canonical_recurrence, has_states, stateless

# Names of the cache among the arguments of a model: `cache` since transformers 5.24, the others before.
_CACHE_ARGUMENTS: Final = ("cache", "past_key_values", "cache_params")
# Sizes of the example inputs. torch.export would specialize sizes 0 and 1, and equal ones.
BATCH, LENGTH, PAST = 2, 3, 5


class _Step(torch.nn.Module):
    """One forward of a causal language model with its caches as inputs and outputs."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self.last_only = {"logits_to_keep": 1} if takes(model, "logits_to_keep") else {}

    def forward(
        self, input_ids: torch.Tensor, position_ids: torch.Tensor, past: dict[int, list[CacheTensors]]
    ) -> tuple[torch.Tensor, list[list[CacheTensors]]]:
        keys = next((cache[0] for caches in past.values() for cache in caches if len(cache) == 2), None)
        start = None if keys is None else keys.shape[2] + input_ids.shape[1] - 1 - position_ids[:, -1]
        with tracing(CacheTrace(past=past, start=start, position_ids=position_ids)) as trace:
            logits = self.model(
                input_ids=input_ids,
                use_cache=False,
                **({"position_ids": position_ids} if takes(self.model, "position_ids") else {}),
                **cache_argument(self.model),
                **self.last_only,
            ).logits
        return logits[:, -1:], [trace.present.get(layer, []) for layer in past]


def cache_argument(model: PreTrainedModel) -> dict[str, TraceCache]:
    """The cache that a model with states is called with; it refers to the `CacheTrace` of the call."""
    if not has_states(model):
        return {}
    return {name: TraceCache() for name in _CACHE_ARGUMENTS if takes(model, name)}


def layer_caches(model: PreTrainedModel) -> list[list[CacheShape]]:
    """The caches of each layer, in the order in which it uses them, from a forward on the meta device.

    Raises:
        UnsupportedModelError: a layer keeps something that the trace does not see.
    """
    buffers = dict(model.named_buffers())
    try:
        torch.nn.Module.to(model, "meta")
        tokens = torch.zeros(1, 2, dtype=torch.int64, device="meta")
        with (
            tracing(CacheTrace()) as trace,
            canonical_recurrence(model),
            torch.no_grad(),
            explained(type(model), model.config),
        ):
            # With a mask of ones or a cache transformers reads no position values, which a meta tensor does not have.
            cache = cache_argument(model)
            mask = {} if cache else {"attention_mask": torch.ones_like(tokens)}
            model(input_ids=tokens, use_cache=False, **mask, **cache)
    finally:
        for name, buffer in buffers.items():
            owner, _, attribute = name.rpartition(".")
            model.get_submodule(owner)._buffers[attribute] = buffer
    with explained(type(model), model.config):
        expected = normalized(model.config).num_layers
    without = [layer for layer in range(expected) if layer not in trace.shapes and not stateless(model.config, layer)]
    if without or set(trace.shapes) - set(range(expected)):
        error = UnsupportedModelError(
            f"{model.config.model_type} keeps keys and values in {len(trace.shapes)} of its {expected} layers, which "
            "edgekiln does not support yet"
        )
        raise unsupported(type(model), model.config, error)
    return [trace.shapes.get(layer, []) for layer in range(expected)]


def trace(model: PreTrainedModel, caches: list[list[CacheShape]]) -> ir.Model:
    """Trace a meta model to a canonical graph.

    Args:
        model: meta model, with or without quantized modules swapped in.
        caches: the result of `layer_caches` for the model before modules were swapped.

    Returns:
        The graph. Its initializers are named as in the model's state_dict; weights have no values yet.

    Raises:
        UnsupportedModelError: torch.export cannot trace the model.
    """
    graph = _trace_layers(model, caches)
    _number_caches(graph.graph)
    return graph


def _trace_layers(model: PreTrainedModel, caches: list[list[CacheShape]]) -> ir.Model:
    """Trace each distinct layer once if possible; caches are named by layer, see `_cache_names`."""
    found = find_layers(model, len(caches))
    if found is not None:
        prefix, layers = found
        representatives = find_representatives(list(layers), model.config)
        with contextlib.suppress(LayerDedupError):
            with only_representatives(list(layers), representatives):
                graph = _trace(model, caches, sorted(set(representatives)))
            expand_layers(graph, prefix, representatives)
            return graph
    return _trace(model, caches, list(range(len(caches))))


def _example(shape: CacheShape) -> CacheTensors:
    """The past of a cache for the trace; its values do not count."""
    if isinstance(shape, KeyValueShape):
        sizes: tuple[int, ...] = (shape.kv_heads, PAST, shape.head_dim)
    else:
        sizes = shape.sizes
    return tuple(torch.zeros(BATCH, *sizes) for _ in shape.parts)


def _trace(model: PreTrainedModel, caches: list[list[CacheShape]], traced: list[int]) -> ir.Model:
    """Trace and simplify, with the past and present of the layers `traced` only."""
    dynamic = torch.export.Dim.DYNAMIC
    positions = torch.arange(PAST, PAST + LENGTH).expand(BATCH, LENGTH).contiguous()
    past = {layer: [_example(shape) for shape in caches[layer]] for layer in traced}
    past_axes = {
        layer: [
            ({0: dynamic, 2: dynamic} if isinstance(shape, KeyValueShape) else {0: dynamic},) * len(shape.parts)
            for shape in caches[layer]
        ]
        for layer in traced
    }
    arguments = (torch.ones(BATCH, LENGTH, dtype=torch.int64), positions, past)
    axes = ({0: dynamic, 1: dynamic}, {0: dynamic, 1: dynamic}, past_axes)
    with _quiet(), torch.no_grad(), canonical_recurrence(model), _stride_zero_parameters(model):
        try:
            program = torch.export.export(_Step(model), arguments, dynamic_shapes=axes, strict=False)
            onnx_program = torch.onnx.export(
                program, dynamo=True, opset_version=canonical.OPSET, optimize=False, verbose=False
            )
        except UnsupportedModelError:
            raise
        except Exception as error:
            raise not_traced(model.config, error) from error
        assert onnx_program is not None
        graph = onnx_program.model
        _rename(graph, _cache_names(caches, traced), set(model.state_dict()))
        Simplify()(graph)
        SizesFromInputs()(graph)
    return graph


@contextlib.contextmanager
def _stride_zero_parameters(model: PreTrainedModel) -> Iterator[None]:
    """Inside the block, meta parameters are CPU tensors without memory: a zero, expanded with strides 0.

    A model with parameters on the meta device and rotary frequencies on the CPU cannot be traced, and frequencies on
    the meta device would lose their values.
    """
    originals: list[tuple[torch.nn.Module, str, torch.nn.Parameter]] = []
    replaced: dict[int, torch.nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is None or parameter.device.type != "meta":
                continue
            if id(parameter) not in replaced:
                zero = torch.zeros((), dtype=parameter.dtype).expand(parameter.shape)
                replaced[id(parameter)] = torch.nn.Parameter(zero, requires_grad=False)
            originals.append((module, name, parameter))
            module._parameters[name] = replaced[id(parameter)]
    try:
        yield
    finally:
        for module, name, parameter in originals:
            module._parameters[name] = parameter


def _cache_names(caches: list[list[CacheShape]], layers: list[int]) -> list[str]:
    """Names of the caches' parts, such as "3.0.key": layer, number of the cache in the layer, part."""
    return [
        f"{layer}.{number}.{part}"
        for layer in layers
        for number, shape in enumerate(caches[layer])
        for part in shape.parts
    ]


def _number_caches(graph: ir.Graph) -> None:
    """Name inputs and outputs as in the module's docstring: keys, values and states numbered over all layers."""
    for values, tense in ((graph.inputs[2:], "past"), (graph.outputs[1:], "present")):
        counts = {"key": 0, "value": 0, "state": 0}
        for value in values:
            assert value.name is not None
            part = value.name.rpartition(".")[2]
            number = counts[part]
            counts[part] += 1
            value.name = f"{tense}_state.{number}" if part == "state" else f"{tense}.{number}.{part}"


def _rename(model: ir.Model, caches: list[str], weights: set[str]) -> None:
    """Rename inputs, outputs and initializers, and drop the values of weights."""
    for value, name in zip(
        model.graph.inputs, ["input_ids", "position_ids", *(f"past.{name}" for name in caches)], strict=True
    ):
        value.name = name
    for value, name in zip(model.graph.outputs, ["logits", *(f"present.{name}" for name in caches)], strict=True):
        value.name = name
    for old in list(model.graph.initializers):
        value = model.graph.initializers.pop(old)
        value.name = old.removeprefix("model.")
        if value.name in weights:
            value.const_value = None
        model.graph.initializers.add(value)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporter's warnings about packages that a language model does not need."""
    loggers = [
        logging.getLogger(name) for name in ("torch.onnx", "torch.export", "torch._export", "onnxscript", "onnx_ir")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
