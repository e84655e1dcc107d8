"""Trace any decoder of transformers, without its weights, to the canonical graph.

Inputs: input_ids int64[B, S], position_ids int64[B, S], past.N.key/value float32[B, KV, P, D]. Outputs: logits
float32[B, 1, V] of the last position, present.N.key/value float32[B, KV, P + S, D]. The sequences of a batch are
aligned at their last token. There is no mask input: the left padding of a sequence follows from its last position.
"""

import contextlib
import logging
import warnings
from collections.abc import Iterator

import onnx_ir as ir
import torch
from transformers import PreTrainedModel

from edgekiln.errors import UnsupportedModelError
from edgekiln.export import canonical
from edgekiln.export.passes.common.simplify import Simplify
from edgekiln.export.tracing.attention import AttentionTrace, LayerShape, tracing
from edgekiln.export.tracing.layer_dedup import (
    LayerDedupError,
    find_layers,
    find_representatives,
    only_representatives,
)
from edgekiln.export.tracing.layer_expansion import expand_layers
from edgekiln.export.tracing.meta_model import explained, normalized, not_traced, takes, unsupported

# Sizes of the example inputs. torch.export would specialize sizes 0 and 1, and equal ones.
BATCH, LENGTH, PAST = 2, 3, 5


class _Step(torch.nn.Module):
    """One forward of a causal language model with the KV cache as inputs and outputs."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self.last_only = {"logits_to_keep": 1} if takes(model, "logits_to_keep") else {}

    def forward(
        self, input_ids: torch.Tensor, position_ids: torch.Tensor, past: dict[int, tuple[torch.Tensor, torch.Tensor]]
    ) -> tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
        length = input_ids.shape[1]
        start = next(iter(past.values()))[0].shape[2] + length - 1 - position_ids[:, -1]
        with tracing(AttentionTrace(past=past, start=start)) as trace:
            logits = self.model(
                input_ids=input_ids, position_ids=position_ids, use_cache=False, **self.last_only
            ).logits
        return logits[:, -1:], [trace.present[layer] for layer in past]


def layer_shapes(model: PreTrainedModel) -> list[LayerShape]:
    """Key-value heads and head size of each layer, from a forward on the meta device.

    Raises:
        UnsupportedModelError: a layer has no KV cache.
    """
    buffers = dict(model.named_buffers())
    try:
        torch.nn.Module.to(model, "meta")
        tokens = torch.zeros(1, 2, dtype=torch.int64, device="meta")
        with tracing(AttentionTrace()) as trace, torch.no_grad(), explained(type(model), model.config):
            # With a mask of ones transformers does not read position values, which a meta tensor does not have.
            model(input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False)
    finally:
        for name, buffer in buffers.items():
            owner, _, attribute = name.rpartition(".")
            model.get_submodule(owner)._buffers[attribute] = buffer
    with explained(type(model), model.config):
        expected = normalized(model.config).num_layers
    if sorted(trace.shapes) != list(range(expected)):
        error = UnsupportedModelError(
            f"{model.config.model_type} keeps keys and values in {len(trace.shapes)} of its {expected} layers, which "
            "edgekiln does not support yet"
        )
        raise unsupported(type(model), model.config, error)
    return [trace.shapes[layer] for layer in range(expected)]


def trace(model: PreTrainedModel, shapes: list[LayerShape]) -> ir.Model:
    """Trace a meta model to a canonical graph.

    Args:
        model: meta model, with or without quantized modules swapped in.
        shapes: the result of `layer_shapes` for the model before modules were swapped.

    Returns:
        The graph. Its initializers are named as in the model's state_dict; weights have no values yet.

    Raises:
        UnsupportedModelError: torch.export cannot trace the model.
    """
    found = find_layers(model, len(shapes))
    if found is not None:
        prefix, layers = found
        representatives = find_representatives(list(layers), model.config)
        with contextlib.suppress(LayerDedupError):
            with only_representatives(list(layers), representatives):
                graph = _trace(model, shapes, sorted(set(representatives)))
            expand_layers(graph, prefix, representatives)
            return graph
    return _trace(model, shapes, list(range(len(shapes))))


def _trace(model: PreTrainedModel, shapes: list[LayerShape], traced: list[int]) -> ir.Model:
    """Trace and simplify, with the past and present of the layers `traced` only."""
    dynamic = torch.export.Dim.DYNAMIC
    positions = torch.arange(PAST, PAST + LENGTH).expand(BATCH, LENGTH).contiguous()
    past = {
        layer: tuple(torch.zeros(BATCH, shapes[layer].kv_heads, PAST, shapes[layer].head_dim) for _ in range(2))
        for layer in traced
    }
    arguments = (torch.ones(BATCH, LENGTH, dtype=torch.int64), positions, past)
    axes = ({0: dynamic, 1: dynamic}, {0: dynamic, 1: dynamic}, dict.fromkeys(past, ({0: dynamic, 2: dynamic},) * 2))
    with _quiet(), torch.no_grad(), _stride_zero_parameters(model):
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
        _rename(graph, traced, set(model.state_dict()))
        Simplify()(graph)
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


def _rename(model: ir.Model, layers: list[int], weights: set[str]) -> None:
    """Rename inputs, outputs and initializers as in `trace`, and drop the values of weights."""
    cache = [f"{layer}.{kind}" for layer in layers for kind in ("key", "value")]
    for value, name in zip(
        model.graph.inputs, ["input_ids", "position_ids", *(f"past.{name}" for name in cache)], strict=True
    ):
        value.name = name
    for value, name in zip(model.graph.outputs, ["logits", *(f"present.{name}" for name in cache)], strict=True):
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
