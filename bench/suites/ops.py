"""Each op alone: edgekiln's kernel against ONNX Runtime's, both limited to one instruction set.

This is the evidence for the kernel tables in cpp/kernels/instruction_sets: a table fills the kernel of an op only where
the ratio is above 1. Ops that a table leaves to ONNX Runtime are marked; to measure one again, fill its field.
PostAttention and DecoderLayers are sequences of these ops, which bench.suites.isa measures in whole engines.

Run: python -m bench.suites.ops --help
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from bench.common.limit_isa import INSTRUCTION_SETS, limited
from bench.report.cpu import table
from edgekiln.export.functions.define import DOMAIN, MICROSOFT
from edgekiln.export.functions.expert_matmul import nbits_function
from edgekiln.export.functions.group_bias_matmul import group_bias_matmul_function
from edgekiln.export.functions.mixture_of_experts import EXPERT_PRODUCTS, mixture_function, mixture_name
from edgekiln.export.functions.per_token_int8 import per_token_int8_function
from edgekiln.export.functions.swiglu import swiglu_function
from edgekiln.export.functions.two_pass_lm_head import two_pass_lm_head_function
from edgekiln.runtimes.ort.kernels import installed_library

# Widths between those of SmolLM2 135M and Llama 3.2 1B.
HIDDEN, INNER, HEADS, KV_HEADS, HEAD_DIM, VOCABULARY, GROUP = 1024, 3072, 16, 4, 64, 16384, 32
PAST, CAPACITY = 512, 1024
# Of a mixture of experts, as OLMoE's.
EXPERTS, CHOSEN, EXPERT_INNER = 64, 8, 1024
Arrays = dict[str, NDArray[Any]]
RNG = np.random.default_rng(0)


class Case:
    """One node, its feeds for m tokens, and outputs that are bound to the memory of feeds (the KV cache)."""

    def __init__(
        self,
        op: str,
        inputs: list[str],
        constants: Arrays,
        feeds: Arrays,
        *,
        functions: Callable[[], Sequence[ir.Function]] | None = None,
        outputs: tuple[str, ...] = ("y",),
        shared: dict[str, str] | None = None,
        **attributes: Any,
    ) -> None:
        domain = DOMAIN if functions else MICROSOFT
        node = helper.make_node(op, inputs, outputs, domain=domain, **attributes)
        kinds = {name: helper.np_dtype_to_tensor_dtype(value.dtype) for name, value in feeds.items()}
        self.feeds, self.shared, self.outputs = feeds, shared or {}, outputs
        graph = helper.make_graph(
            [node],
            op,
            [helper.make_tensor_value_info(name, kinds[name], value.shape) for name, value in feeds.items()],
            [
                helper.make_tensor_value_info(name, kinds.get(self.shared.get(name, ""), TensorProto.FLOAT), None)
                for name in outputs
                if name
            ],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        )
        opsets = [helper.make_opsetid("", 23), helper.make_opsetid(MICROSOFT, 1), helper.make_opsetid(DOMAIN, 1)]
        protos = [ir.serde.serialize_function(function) for function in functions()] if functions else []
        self.model = helper.make_model(graph, opset_imports=opsets, functions=protos, ir_version=11)

    def runner(self, library: Path | None, threads: int) -> Callable[[], object]:
        """Load the node with edgekiln's kernels or without, and return what runs it."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4
        if library:
            options.register_custom_ops_library(str(library))
        session = ort.InferenceSession(self.model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        binding = session.io_binding()
        values = {name: ort.OrtValue.ortvalue_from_numpy(value) for name, value in self.feeds.items()}
        for name, value in values.items():
            binding.bind_ortvalue_input(name, value)
        for name in filter(None, self.outputs):
            if name in self.shared:
                binding.bind_ortvalue_output(name, values[self.shared[name]])
            else:
                binding.bind_output(name)
        return lambda: session.run_with_iobinding(binding)


def floats(*shape: int) -> NDArray[np.float32]:
    """Normal numbers."""
    return RNG.standard_normal(shape, dtype=np.float32)


def attention(m: int, int8_cache: bool) -> Case:
    """After PAST tokens for a single one, else a prompt."""
    past = PAST if m == 1 else 0
    shape = (1, KV_HEADS, CAPACITY, HEAD_DIM)
    cache: Arrays = {name: floats(*shape) for name in ("past_key", "past_value")}
    constants = {name: floats(CAPACITY, HEAD_DIM // 2) for name in ("cos", "sin")}
    inputs = ["qkv", "", "", "past_key", "past_value", "last", "total", "cos", "sin"]
    attributes: dict[str, Any] = {"num_heads": HEADS, "kv_num_heads": KV_HEADS, "do_rotary": 1}
    if int8_cache:
        cache = {name: (value * 30).clip(-127, 127).astype(np.int8) for name, value in cache.items()}
        scales = np.full((1, KV_HEADS, 1, HEAD_DIM), 0.03, np.float32)
        constants |= {"key_scale": scales, "value_scale": scales}
        inputs += ["", "", "", "key_scale", "value_scale"]
        attributes |= {"kv_cache_bit_width": 8, "k_quant_type": "PER_CHANNEL", "v_quant_type": "PER_CHANNEL"}
    feeds = {
        "qkv": floats(1, m, (HEADS + 2 * KV_HEADS) * HEAD_DIM),
        **cache,
        "last": np.array([past + m - 1], np.int32),
        "total": np.array(past + m, np.int32),
    }
    shared = {"key": "past_key", "value": "past_value"}
    return Case(
        "GroupQueryAttention", inputs, constants, feeds, outputs=("y", "key", "value"), shared=shared, **attributes
    )


def nbits(m: int, bits: int, k: int, n: int, kind: str) -> Case:
    """A matrix multiplication: `kind` is "zero points", "group bias" or "two-pass"."""
    codes = RNG.integers(0, 256, (n, k // GROUP, GROUP * bits // 8), dtype=np.uint8)
    constants: Arrays = {"w": codes, "scales": RNG.uniform(0.01, 0.02, (n, k // GROUP)).astype(np.float32)}
    sizes: dict[str, Any] = {"K": k, "N": n, "bits": bits, "block_size": GROUP}
    feeds = {"x": floats(1, m, k)}
    if kind == "group bias":
        constants["bias"] = floats(n, k // GROUP) / 100
        return Case(
            "GroupBiasMatMulNBits",
            ["x", *constants],
            constants,
            feeds,
            functions=lambda: [group_bias_matmul_function()],
            **sizes,
            group_shape=[0, 0, k // GROUP, GROUP],
        )
    constants["zeros"] = RNG.integers(0, 256, (n, k // GROUP * bits // 8), dtype=np.uint8)
    if kind == "two-pass":
        sizes |= {"accuracy_level": 4, "margin": 2.0}
        return Case(
            "TwoPassMatMulNBits",
            ["x", *constants],
            constants,
            feeds,
            functions=lambda: [two_pass_lm_head_function()],
            **sizes,
        )
    return Case("MatMulNBits", ["x", *constants], constants, feeds, **sizes, accuracy_level=4)


def expert_weight(name: str, k: int, n: int) -> Arrays:
    """Of all experts: 4 bits with zero points."""
    return {
        name: RNG.integers(0, 256, (EXPERTS, n, k // GROUP, GROUP // 2), dtype=np.uint8),
        f"{name}.scales": RNG.uniform(0.01, 0.02, (EXPERTS, n, k // GROUP)).astype(np.float32),
        f"{name}.zeros": RNG.integers(0, 256, (EXPERTS, n, k // GROUP // 2), dtype=np.uint8),
    }


def chosen_experts(m: int) -> NDArray[np.int64]:
    """Of m tokens."""
    return np.stack([RNG.permutation(EXPERTS)[:CHOSEN] for _ in range(m)]).astype(np.int64)


def expert_matmul(m: int) -> Case:
    """The gate and up projections of chosen experts."""
    constants = expert_weight("w", HIDDEN, 2 * EXPERT_INNER)
    feeds: Arrays = {"x": floats(m, 1, HIDDEN), "index": chosen_experts(m)}
    sizes = {"K": HIDDEN, "N": 2 * EXPERT_INNER, "bits": 4, "block_size": GROUP}
    inputs = ["x", "index", *constants]
    return Case("ExpertMatMulNBits", inputs, constants, feeds, functions=lambda: [nbits_function(False)], **sizes)


def mixture(m: int) -> Case:
    """What the experts of each token do; against ONNX Runtime's function, which loops over the experts."""
    product = EXPERT_PRODUCTS[0]
    constants = expert_weight("w", HIDDEN, 2 * EXPERT_INNER) | expert_weight("v", EXPERT_INNER, HIDDEN)
    feeds: Arrays = {"x": floats(m, 1, HIDDEN), "index": chosen_experts(m), "gates": floats(m, CHOSEN, 1)}

    def functions() -> list[ir.Function]:
        return [mixture_function(product, product), nbits_function(False), swiglu_function()]

    sizes: dict[str, Any] = {"hidden": HIDDEN, "intermediate": EXPERT_INNER, "gate_up": 2 * EXPERT_INNER}
    for name in ("gate_up", "down"):
        sizes |= {f"{name}_bits": 4, f"{name}_block_size": GROUP}
    inputs = ["x", "index", "gates", *constants]
    return Case(mixture_name(product, product), inputs, constants, feeds, functions=functions, **sizes)


def per_token_int8(m: int) -> Case:
    """W8A8."""
    constants: Arrays = {"w": RNG.integers(-127, 128, (HIDDEN, INNER), dtype=np.int8), "scales": floats(INNER)}
    feeds = {"x": floats(1, m, HIDDEN)}
    return Case(
        "PerTokenInt8MatMul",
        ["x", *constants],
        constants,
        feeds,
        functions=lambda: [per_token_int8_function()],
        K=HIDDEN,
        N=INNER,
    )


def gather(m: int, bits: int) -> Case:
    """Embeddings of m tokens."""
    constants = {
        "w": RNG.integers(0, 256, (VOCABULARY, HIDDEN * bits // 8), dtype=np.uint8),
        "scales": floats(VOCABULARY, HIDDEN // GROUP),
    }
    feeds = {"ids": RNG.integers(0, VOCABULARY, (1, m))}
    attributes = {"bits": bits, "block_size": GROUP, "gather_axis": 0, "quantize_axis": 1}
    return Case("GatherBlockQuantized", ["w", "ids", "scales"], constants, feeds, **attributes)


def skip_rms_norm(m: int) -> Case:
    """Residual add and norm."""
    feeds = {"a": floats(1, m, HIDDEN), "b": floats(1, m, HIDDEN)}
    outputs, constants = ("y", "", "", "sum"), {"gamma": floats(HIDDEN)}
    return Case(
        "SkipSimplifiedLayerNormalization", ["a", "b", "gamma"], constants, feeds, outputs=outputs, epsilon=1e-5
    )


def swiglu(m: int) -> Case:
    """Of packed gate and up projections."""
    return Case("SwiGLU", ["x"], {}, {"x": floats(1, m, 2 * INNER)}, functions=lambda: [swiglu_function()])


# Label -> the case for m tokens.
CASES: dict[str, Callable[[int], Case]] = {
    "GroupQueryAttention": lambda m: attention(m, False),
    "GroupQueryAttention, int8 cache": lambda m: attention(m, True),
    "MatMulNBits, 4 bits": lambda m: nbits(m, 4, HIDDEN, INNER, "zero points"),
    "MatMulNBits, 8 bits": lambda m: nbits(m, 8, HIDDEN, INNER, "zero points"),
    "GroupBiasMatMulNBits, 4 bits": lambda m: nbits(m, 4, HIDDEN, INNER, "group bias"),
    "TwoPassMatMulNBits": lambda m: nbits(m, 8, HIDDEN, VOCABULARY, "two-pass"),
    "PerTokenInt8MatMul": per_token_int8,
    "ExpertMatMulNBits, 4 bits": expert_matmul,
    "ZeroPointZeroPointMixtureOfExperts, 4 bits": mixture,
    "GatherBlockQuantized, 4 bits": lambda m: gather(m, 4),
    "GatherBlockQuantized, 8 bits": lambda m: gather(m, 8),
    "SkipSimplifiedLayerNormalization": skip_rms_norm,
    "SwiGLU": swiglu,
}


def best_of(runners: list[Callable[[], object]], seconds: float) -> list[float]:
    """The shortest time of each, in seconds, of runs that alternate for about `seconds`."""
    best = [np.inf] * len(runners)
    for run in runners:
        run()  # packs the weights of experts
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or np.inf in best:
        for index, run in enumerate(runners):
            start = time.perf_counter()
            run()
            best[index] = min(best[index], time.perf_counter() - start)
    return best


@click.command()
@click.option("--isa", type=click.Choice(INSTRUCTION_SETS), help="Limit both; by default neither is limited.")
@click.option("--threads", default=1, show_default=True)
@click.option("--tokens", type=int, multiple=True, default=(1, 256), show_default=True)
@click.option("--only", multiple=True, help="Measure only ops whose label contains this text; repeatable.")
@click.option("--seconds", default=0.5, show_default=True, help="Of each op and number of tokens.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("bench/results"), show_default=True)
def main(
    *, isa: str | None, threads: int, tokens: tuple[int, ...], only: tuple[str, ...], seconds: float, out: Path
) -> None:
    """Print microseconds of both and the ratio, for single tokens and for a prompt."""
    if isa and "LIMIT_CPUID" not in os.environ:
        # The limits take effect where a process starts.
        limits = limited(isa, out / "onnxruntime-limited")
        command = [sys.executable, *sys.orig_argv[1:]]
        raise SystemExit(subprocess.run(command, env=os.environ | limits, check=False).returncode)
    library = installed_library()
    if library is None:
        raise SystemExit("edgekiln's kernels are not built: make kernels")
    registered = {op.name.rpartition(".")[2]: op.registered for op in library.ops}
    rows = []
    for label, case_of in CASES.items():
        if only and not any(part in label for part in only):
            continue
        row = [label]
        for m in tokens:
            case = case_of(m)
            ours, theirs = best_of([case.runner(path, threads) for path in (library.library, None)], seconds)
            row += [f"{ours * 1e6:.0f}", f"{theirs * 1e6:.0f}", f"{theirs / ours:.2f}"]
        rows.append([*row, "edgekiln" if registered[label.split(",", maxsplit=1)[0]] else "ONNX Runtime"])
    heads = [f"{name}, m = {m}" for m in tokens for name in (library.instruction_set, "onnxruntime", "ratio")]
    click.echo("\n".join(table(["µs", *heads, "registered"], rows)))


if __name__ == "__main__":
    main()
