"""One tracer for every decoder: a module without weights becomes the canonical graph.

Graph: input_ids int64[B, S], position_ids int64[B, S], past.N.key/value float32[B, KV, P, D] to logits
float32[B, 1, V] of the last position and present.N.key/value [B, KV, P + S, D]. Rows of a batch are aligned at their
last token; left padding needs no mask input, because it follows from the last position of each row.
"""

import contextlib
import logging
import warnings
from collections.abc import Iterator

import onnx_ir as ir
import torch
from transformers import PreTrainedModel

from edgekiln.errors import UnsupportedModelError, first_line
from edgekiln.export import canonical
from edgekiln.export.passes.common.simplify import Simplify
from edgekiln.export.tracing.attention import AttentionTrace, LayerShape, tracing
from edgekiln.export.tracing.layer_dedup import EntangledLayersError, expand, find_layers, only, representatives
from edgekiln.export.tracing.meta_model import explained, normalized, takes, unsupported

# Sizes of the example inputs: distinct, and none is 0 or 1, which torch.export would take for constants.
BATCH, LENGTH, PAST = 2, 3, 5


class _Step(torch.nn.Module):
    """One forward of a causal language model with its key-value cache as plain inputs and outputs."""

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
    """Key-value heads and head size of each layer, read from a forward that computes nothing.

    Raises:
        UnsupportedModelError: some layers keep another kind of state than keys and values.
    """
    buffers = dict(model.named_buffers())
    try:
        torch.nn.Module.to(model, "meta")
        tokens = torch.zeros(1, 2, dtype=torch.int64, device="meta")
        with tracing(AttentionTrace()) as trace, torch.no_grad(), explained(type(model), model.config):
            # A mask of ones keeps transformers from reading position values, which a meta tensor has not.
            model(input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False)
    finally:
        for name, buffer in buffers.items():
            owner, _, attribute = name.rpartition(".")
            model.get_submodule(owner)._buffers[attribute] = buffer
    expected = normalized(model.config).num_layers
    if sorted(trace.shapes) != list(range(expected)):
        error = ValueError(f"keys and values are kept by {len(trace.shapes)} of {expected} layers")
        raise unsupported(type(model), model.config, error)
    return [trace.shapes[layer] for layer in range(expected)]


def trace(model: PreTrainedModel, shapes: list[LayerShape]) -> ir.Model:
    """Trace a skeleton into a canonical graph whose weights have names, shapes and no values yet.

    Args:
        model: skeleton, its layers quantized or not.
        shapes: what `layer_shapes` said of it before anything was quantized.

    Returns:
        The graph; initializers are named as in the model's state_dict.

    Raises:
        UnsupportedModelError: torch.export cannot follow the model.
    """
    found = find_layers(model, len(shapes))
    if found is not None:
        prefix, layers = found
        kinds = representatives(list(layers), model.config)
        with contextlib.suppress(EntangledLayersError):
            with only(list(layers), kinds):
                graph = _trace(model, shapes, sorted(set(kinds)))
            expand(graph, prefix, kinds)
            return graph
    return _trace(model, shapes, list(range(len(shapes))))


def _trace(model: PreTrainedModel, shapes: list[LayerShape], traced: list[int]) -> ir.Model:
    """Trace with the past and present of the layers `traced`, and simplify."""
    dynamic = torch.export.Dim.DYNAMIC
    positions = torch.arange(PAST, PAST + LENGTH).expand(BATCH, LENGTH).contiguous()
    past = {
        layer: tuple(torch.zeros(BATCH, shapes[layer].kv_heads, PAST, shapes[layer].head_dim) for _ in range(2))
        for layer in traced
    }
    arguments = (torch.ones(BATCH, LENGTH, dtype=torch.int64), positions, past)
    axes = ({0: dynamic, 1: dynamic}, {0: dynamic, 1: dynamic}, dict.fromkeys(past, ({0: dynamic, 2: dynamic},) * 2))
    with _quiet(), torch.no_grad(), _stand_ins(model):
        try:
            program = torch.export.export(_Step(model), arguments, dynamic_shapes=axes, strict=False)
            onnx_program = torch.onnx.export(
                program, dynamo=True, opset_version=canonical.OPSET, optimize=False, verbose=False
            )
        except UnsupportedModelError:
            raise
        except Exception as error:
            raise UnsupportedModelError(f"cannot trace {model.config.model_type}: {first_line(error)}") from error
        assert onnx_program is not None
        graph = onnx_program.model
        _name(graph, traced, set(model.state_dict()))
        Simplify()(graph)
    return graph


@contextlib.contextmanager
def _stand_ins(model: PreTrainedModel) -> Iterator[None]:
    """Give parameters a device and no memory while tracing: views of one zero with every stride 0.

    A module whose parameters are on the meta device and whose rotary frequencies are on the CPU cannot be traced, and
    frequencies on the meta device would lose their values.
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


def _name(model: ir.Model, layers: list[int], weights: set[str]) -> None:
    """Give inputs and outputs their contract names, initializers those of the state_dict, and weights no value."""
    kinds = [f"{layer}.{kind}" for layer in layers for kind in ("key", "value")]
    for value, name in zip(
        model.graph.inputs, ["input_ids", "position_ids", *(f"past.{k}" for k in kinds)], strict=True
    ):
        value.name = name
    for value, name in zip(model.graph.outputs, ["logits", *(f"present.{k}" for k in kinds)], strict=True):
        value.name = name
    for old in list(model.graph.initializers):
        value = model.graph.initializers.pop(old)
        value.name = old.removeprefix("model.")
        if value.name in weights:
            value.const_value = None
        model.graph.initializers.add(value)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back the exporter's remarks about packages that a language model does not need."""
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
