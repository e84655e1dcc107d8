"""Build small canonical graphs, and run them in the numpy reference or in ONNX Runtime."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from onnx_ir.passes import common

from edgekiln.calib.formats.quantize import quantize
from edgekiln.calib.formats.scheme import Scheme
from edgekiln.calib.formats.weight import CODEBOOKS, QuantizedWeight, pack_int4
from edgekiln.export import canonical
from edgekiln.export.op_reference import evaluator
from edgekiln.runtimes.base import KernelsChoice
from edgekiln.runtimes.ort.kernels import LIBRARY

Shape = Sequence[int | str]
IR_VERSION = 11


def graph(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Shape],
    outputs: Mapping[str, Shape],
    weights: Mapping[str, np.ndarray],
    shapes: Mapping[str, Shape] | None = None,
) -> ir.Model:
    """A canonical graph of float32 values; inputs called *ids are int64.

    Args:
        nodes: in topological order.
        inputs, outputs: name to shape.
        weights: initializers.
        shapes: intermediate values whose shape onnx cannot infer.
    """

    def info(name: str, shape: Shape) -> onnx.ValueInfoProto:
        kind = TensorProto.INT64 if name.endswith("ids") else TensorProto.FLOAT
        return helper.make_tensor_value_info(name, kind, shape)

    proto = helper.make_model(
        helper.make_graph(
            nodes,
            "test",
            [info(*item) for item in inputs.items()],
            [info(*item) for item in outputs.items()],
            [numpy_helper.from_array(np.asarray(array, order="C"), name) for name, array in weights.items()],
            value_info=[info(*item) for item in (shapes or {}).items()],
        ),
        opset_imports=[helper.make_opsetid("", canonical.OPSET), helper.make_opsetid(canonical.DOMAIN, 1)],
        ir_version=IR_VERSION,
    )
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


def node(op: str, inputs: Sequence[str], outputs: str | Sequence[str], **attributes: Any) -> onnx.NodeProto:
    """A node; canonical ops get edgekiln's domain."""
    own = op in ("Attention", "ExpertMatMul", "QuantizedExpertMatMul", "QuantizedGather", "QuantizedMatMul")
    names = [outputs] if isinstance(outputs, str) else list(outputs)
    return helper.make_node(op, list(inputs), names, domain=canonical.DOMAIN if own else "", **attributes)


def run_reference(model: ir.Model, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Run a canonical graph in numpy."""
    return evaluator(ir.to_proto(model)).run(None, dict(feeds))


def session(model: ir.Model, kernels: KernelsChoice = "onnxruntime") -> ort.InferenceSession:
    """Load a lowered graph as the ort-cpu runtime does, with edgekiln's kernels or only those of ONNX Runtime."""
    common.RemoveUnusedNodesPass()(model)
    model.opset_imports["com.microsoft"] = 1
    model.opset_imports.pop(canonical.DOMAIN, None)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if kernels == "edgekiln":
        options.register_custom_ops_library(str(LIBRARY))
    return ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])


def standard_session(model: ir.Model) -> ort.InferenceSession:
    """Load a graph of standard ops; ONNX Runtime quantizes no activations that the graph does not quantize."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    return ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])


def run_ort(model: ir.Model, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Run a lowered graph in ONNX Runtime."""
    return session(model).run(None, dict(feeds))


def ops(model: ir.Model) -> list[str]:
    """The op types of all nodes, sorted."""
    return sorted(node.op_type for node in model.graph)


def quantized(name: str, weight: np.ndarray, scheme: Scheme) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Initializers `{name}.qweight` and so on of a weight [N, K], and its dequantized weight."""
    import torch

    result = _indices(weight, scheme) if scheme.codebook else quantize(torch.from_numpy(weight), scheme)
    tensors = {
        f"{name}.qweight": pack_int4(result.codes) if scheme.bits == 4 else result.codes,
        f"{name}.scales": result.scales,
    }
    if result.zero_points is not None:
        tensors[f"{name}.zero_points"] = result.zero_points
    return tensors, result.dequantize()


def _indices(weight: np.ndarray, scheme: Scheme) -> QuantizedWeight:
    """A weight [N, K] as the nearest values of a codebook."""
    assert scheme.codebook
    assert scheme.group_size
    table = CODEBOOKS[scheme.codebook]
    groups = weight.reshape(len(weight), -1, scheme.group_size)
    scales = np.abs(groups).max(axis=-1) / np.abs(table).max()
    codes = np.abs(groups[..., None] / scales[..., None, None] - table).argmin(axis=-1).astype(np.uint8)
    return QuantizedWeight(scheme, codes.reshape(weight.shape), scales, None, relative_error=0.0, clipped=0.0)
