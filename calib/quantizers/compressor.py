"""GPTQ and AWQ by llm-compressor; what GPTQ makes of a weight is taken off its grid exactly, refined and tuned.

One scale an output channel is not theirs to find: those codes are bound by a budget that `per_channel` explains.
"""

import contextlib
import importlib.util
import io
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from edgekiln.calib.analysis.layer_groups import matrix
from edgekiln.calib.data.loader import Windows
from edgekiln.calib.formats.prequantized import PrequantizedWeight
from edgekiln.calib.formats.scheme import Scheme
from edgekiln.calib.formats.weight import QuantizedWeight
from edgekiln.calib.quantizers.coordinate_descent import refine, weight_error
from edgekiln.calib.quantizers.scale_tuning import teacher, tune_scales
from edgekiln.calib.recipe import Method
from edgekiln.errors import EdgekilnError, first_line

Progress = Callable[[str, float], None]
_BATCH = 8
# A code more than this from a whole number is not on the grid that the library says it is on.
_ON_GRID = 1e-2


def compress(
    model: PreTrainedModel, schemes: dict[str, Scheme], method: Method, windows: Windows, progress: Progress
) -> tuple[dict[str, PrequantizedWeight], dict[str, torch.Tensor]]:
    """Run a method over the layers in groups, in place.

    Args:
        model: in float32; used up.
        schemes: linear layer to what it shall get; layers with one scale a channel are passed by.
        method: gptq or awq.
        windows: int64 [windows, length] calibration tokens.
        progress: called with the step and how much of it is done.

    Returns:
        Weights that are quantized now, and float ones that differ from the model's, by name.

    Raises:
        EdgekilnError: llm-compressor is not installed, or cannot take the model.
    """
    if importlib.util.find_spec("llmcompressor") is None:
        raise EdgekilnError(f"{method} needs llm-compressor: `pip install 'edgekiln[calib]'`, or use --quant int4")
    grouped = {name: scheme for name, scheme in schemes.items() if scheme.group_size}
    if not grouped:
        return {}, {}
    taught = teacher(model, windows) if method == "gptq" else None
    with _quiet():
        refined = _oneshot(model, grouped, method, windows, lambda done: progress(f"calibrating ({method})", done))
    if method == "awq":
        # It moves factors between weights and leaves the rounding to others: to us, who search for the best grid.
        kept = {id(part.weight) for part in (model.get_input_embeddings(), model.get_output_embeddings()) if part}
        return {}, {
            name: value.detach()
            for name, value in model.named_parameters()
            if name.rpartition(".")[2] in ("weight", "bias") and id(value) not in kept
        }
    if missing := sorted(grouped.keys() - refined.found.keys()):
        raise EdgekilnError(f"llm-compressor passed {missing[0]} by: use --quant int4, and report this")
    assert taught is not None
    found = tune_scales(model, refined.found, refined.original, taught, lambda done: progress("tuning scales", done))
    return {
        f"{name}.weight": PrequantizedWeight(scheme, lambda weight=found[name]: weight)  # type: ignore[misc]
        for name, scheme in grouped.items()
    }, {}


def _oneshot(
    model: PreTrainedModel,
    schemes: dict[str, Scheme],
    method: Method,
    windows: Windows,
    progress: Callable[[float], None],
) -> "_Refining":
    """Run `method` on the model; with gptq, what became of each layer."""
    from compressed_tensors.quantization import disable_quantization
    from llmcompressor import oneshot
    from llmcompressor.modifiers import Modifier
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQModifier

    layers = model.config.get_text_config().num_hidden_layers
    refining = _Refining(model, schemes if method == "gptq" else {})
    done = 0

    class Follow(Modifier):
        """Refines what GPTQ made of each part of the model, before the next part sees it, and tells that it is done."""

        def on_initialize(self, state: Any, **_: Any) -> bool:
            return True

        def on_calibration_start(self, state: Any, event: Any, **_: Any) -> None:
            for name, module in refining.modules.items():
                self.register_hook(module, refining.watch(name), "forward_pre")

        def on_sequential_epoch_end(self, state: Any, event: Any, modules: Any, **_: Any) -> None:
            nonlocal done
            refining.refine(modules)
            done += 1
            progress(min(1.0, done / layers))

        def on_calibration_end(self, state: Any, event: Any, **_: Any) -> None:
            self.remove_hooks()

    groups: dict[str, Any] = {"config_groups": _config_groups(schemes), "ignore": ["lm_head"]}
    recipe: list[Modifier] = (
        [GPTQModifier(**groups)] if method == "gptq" else [AWQModifier(), QuantizationModifier(**groups)]
    )
    ids = torch.from_numpy(windows)
    rows: Any = [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in ids]
    data: Any = torch.utils.data.DataLoader(rows, batch_size=_BATCH)
    # It asks for a tokenizer whenever there is data, and for a configuration on the disk.
    unused: Any = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))
    with tempfile.TemporaryDirectory(prefix="edgekiln-") as directory:
        model.config.save_pretrained(directory)
        model.config._name_or_path = directory
        try:
            with _unpinned():
                oneshot(model=model, recipe=[*recipe, Follow()], dataset=data, processor=unused, pipeline="sequential")
        except EdgekilnError:
            raise
        except Exception as error:  # whatever a model's code trips over while it is traced
            raise EdgekilnError(
                f"llm-compressor cannot run {method} on {model.config.model_type}: {first_line(error)}; "
                "use --quant int4 or int8"
            ) from error
    # Layers would round their weights, once more, to the grid that they have left.
    model.apply(disable_quantization)
    return refining


class _Refining:
    """Takes each layer off its grid as soon as GPTQ has quantized it, and refines it on what it read.

    Attributes:
        modules: the layers by name.
        original: their weights as they were, float [N, K].
        found: what became of those that are done.
    """

    def __init__(self, model: PreTrainedModel, schemes: dict[str, Scheme]) -> None:
        self.modules = {name: model.get_submodule(name) for name in schemes}
        self.found: dict[str, QuantizedWeight] = {}
        self._schemes = schemes
        self.original = {name: matrix(module).detach().clone() for name, module in self.modules.items()}
        self._moments: dict[str, torch.Tensor] = {}
        # Readers of one tensor run one after the other.
        self._last: tuple[torch.Tensor | None, torch.Tensor | None] = (None, None)

    def watch(self, name: str) -> Callable[..., None]:
        """A hook that adds up the products of what the layer `name` reads."""

        def hook(_module: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
            if arguments[0] is not self._last[0]:
                rows = arguments[0].detach().reshape(-1, arguments[0].shape[-1]).float()
                self._last = (arguments[0], rows.t() @ rows)
            product = self._last[1]
            assert product is not None
            known = self._moments.get(name)
            self._moments[name] = product.clone() if known is None else known.add_(product)

        return hook

    @torch.no_grad()
    def refine(self, modules: Iterable[torch.nn.Module]) -> None:
        """Finish those of `modules` that are quantized."""
        present = set(modules)
        self._last = (None, None)
        for name in [name for name in self.original if name not in self.found and self.modules[name] in present]:
            module, original = self.modules[name], self.original[name]
            weight = _taken_off(module, self._schemes[name], original, name)
            moments = self._moments.pop(name, None)
            if moments is not None:  # an expert that no token reached has none
                weight = refine(original, weight, moments)
                matrix(module).copy_(torch.from_numpy(weight.dequantize()))
            self.found[name] = weight


def _config_groups(schemes: dict[str, Scheme]) -> dict[str, Any]:
    """One group a scheme, each aimed at its layers by name."""
    return {
        f"group_{index}": {
            "targets": [name for name, other in schemes.items() if other == scheme],
            "weights": {
                "num_bits": scheme.bits,
                "type": "int",
                "symmetric": scheme.symmetric,
                "strategy": "group",
                "group_size": scheme.group_size,
                "observer": "mse",
            },
        }
        for index, scheme in enumerate(dict.fromkeys(schemes.values()))
    }


def _taken_off(module: torch.nn.Module, scheme: Scheme, original: torch.Tensor, name: str) -> QuantizedWeight:
    """The codes of a weight that lies on the grid of its module's scales and zero points."""
    assert scheme.group_size is not None
    half = 1 << (scheme.bits - 1)
    weight = matrix(module).detach().float()
    rows = weight.shape[0]
    scales = getattr(module, "weight_scale").detach().float().reshape(rows, -1)  # noqa: B009 - not torch's own
    zero = torch.zeros_like(scales)
    if not scheme.symmetric:
        zero = getattr(module, "weight_zero_point").detach().float().reshape(rows, -1)  # noqa: B009
    steps = weight.reshape(rows, -1, scheme.group_size) / scales[..., None] + zero[..., None] + half
    codes = steps.round()
    if not bool((steps - codes).abs().max() < _ON_GRID) or codes.min() < 0 or codes.max() >= 2 * half:
        raise EdgekilnError(f"llm-compressor left {name} off its own grid: use --quant int4, and report this")
    values = (codes - zero[..., None] - half) * scales[..., None]
    return QuantizedWeight(
        scheme=scheme,
        codes=codes.reshape(weight.shape).numpy().astype(np.uint8),
        scales=scales.numpy(),
        zero_points=None if scheme.symmetric else (zero + half).numpy().astype(np.uint8),
        relative_error=weight_error(values.reshape(weight.shape), original.float()),
        clipped=0.0,
    )


@contextlib.contextmanager
def _unpinned() -> Iterator[None]:
    """AWQ pins its cache for copies to an accelerator; where there is none, torch refuses to and nothing is copied."""
    from llmcompressor.pipelines.cache import IntermediatesCache

    cache: Any = IntermediatesCache
    pin = getattr(cache, "pin_memory", None)
    if pin is None or torch.accelerator.is_available():
        yield
        return
    cache.pin_memory = lambda *_arguments, **_keywords: None
    try:
        yield
    finally:
        cache.pin_memory = pin


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back the library's logs and progress bars."""
    from loguru import logger

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for package in ("llmcompressor", "compressed_tensors"):
        logger.disable(package)
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        yield
