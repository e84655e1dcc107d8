"""Save a quantized model as a Hugging Face checkpoint in the compressed-tensors format, for vLLM and transformers."""

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import GenerationConfig, PreTrainedModel

from edgekiln.calib.analysis.layer_report import layer_report
from edgekiln.calib.analysis.output_error import measured_error
from edgekiln.calib.formats.compressed_tensors import (
    checkpoint_tensors,
    fused_layers_with_mixed_schemes,
    is_supported,
    quantization_config,
)
from edgekiln.calib.formats.prequantized import PrequantizedWeight
from edgekiln.calib.quantization_plan import QuantizationPlan, plan_quantization, quantizable, quantized_tensors
from edgekiln.calib.recipe import Override, Recipe
from edgekiln.calib.torch_threads import limited_torch_threads
from edgekiln.calib.unquantized import check_unquantized
from edgekiln.engine.directory import (
    CHAT_TEMPLATE_FILE,
    QUANTIZATION_FILE,
    TOKENIZER_FILE,
    atomic_directory,
    write_json,
)
from edgekiln.engine.reports import QuantizationReport
from edgekiln.errors import EngineError, UnsupportedModelError
from edgekiln.pipeline.options import BuildOptions
from edgekiln.progress import Progress
from edgekiln.sources.base import ModelSource, WeightReader
from edgekiln.sources.meta_model import meta_model

# Largest size of the tensors in one file, in bytes.
_SHARD_BYTES = 4 << 30
CHECKPOINT = "a checkpoint of `edgekiln quantize`"
# The special tokens that tokenizer_config.json names itself.
_NAMED_TOKENS = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
# Names of the files that a checkpoint has.
_FILES = ("*.json", "*.safetensors", "chat_template*.jinja")
_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Checkpoint:
    """The result of `save_compressed_tensors`.

    Attributes:
        size: of all files, in bytes.
        notes: sentences for the user.
    """

    size: int
    notes: tuple[str, ...]


def is_checkpoint(directory: Path) -> bool:
    """Whether `save_compressed_tensors` wrote this directory: it holds a model and quantization.json.

    Raises:
        EngineError: it also has files that `save_compressed_tensors` does not write.
    """
    if not (directory / QUANTIZATION_FILE).is_file() or not (directory / "config.json").is_file():
        return False
    for path in sorted(directory.iterdir()):
        if path.is_dir() or not any(fnmatchcase(path.name, pattern) for pattern in _FILES):
            raise EngineError(
                f"{directory} has {path.name}, which `edgekiln quantize` does not write: move it away or choose "
                "another output with -o"
            )
    return True


@limited_torch_threads()
def save_compressed_tensors(source: ModelSource, output: Path, options: BuildOptions, progress: Progress) -> Checkpoint:
    """Quantize `source` and write it as a checkpoint directory, atomically.

    The embedding and the head stay in floating point, since vLLM does not support quantized ones.

    Args:
        source: the model.
        output: directory to create; a checkpoint that this function wrote there before is replaced.
        options: the recipe, calibration data, limits and `strict`; other options are ignored.
        progress: called with the step and how much of it is done.

    Raises:
        UnsupportedModelError: the format does not support the model's weights, or no layer is quantized.
        RequestError: with `options.strict`, a model of which too much stays in floating point, without the embedding
            and the head.
        EngineError: `output` cannot be written, or is a directory with other contents.
        SourceError: a weight is damaged.
    """
    reads = source.local_paths()
    with atomic_directory(output, is_checkpoint, CHECKPOINT, reads) as directory:
        recipe = options.chosen_recipe
        _check_model(source)
        model = meta_model(source.config)
        if options.strict:  # before calibration, which hardly changes it
            _planned(source, recipe, model, strict=True)
        arrived = source.weights
        source = replace(source, weights=SupportedWeights(arrived))
        if recipe.calibrates or options.chosen_limits:
            from edgekiln.pipeline.calibration import calibrated

            progress("calibrate", 0.0)
            source, recipe = calibrated(source, recipe, options.data, options.chosen_limits, progress)
        architecture = type(model).__name__
        planned = _planned(source, recipe, model, options.strict)
        schemes = {layer.module: layer.scheme for layer in planned.layers}
        if not schemes:
            raise UnsupportedModelError(
                f"nothing to quantize in {source.name}: all layers stay in floating point, because of the recipe or "
                "because they are not linear layers"
            )
        notes = [*source.notes, *planned.notes, *_notes(planned, arrived)]
        report = QuantizationReport(scheme=options.quant, layers={})
        _write_tensors(directory, _tensors(source, planned, report, progress))
        write_json(directory / QUANTIZATION_FILE, report.model_dump())
        linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
        ignore = [name for name in linear if name not in schemes]
        _write_config(directory, source, architecture, quantization_config(schemes, ignore))
        _write_tokenizer(directory, source)
        size = sum(path.stat().st_size for path in directory.iterdir())
    progress("done", 1.0)
    return Checkpoint(size, tuple(notes))


def _check_model(source: ModelSource) -> None:
    if source.model_class is not None:
        raise UnsupportedModelError(
            f"{source.name} is the text decoder of a model with other inputs, for which transformers and vLLM have no "
            "class: build an engine with `edgekiln engine`, or quantize the whole model with llm-compressor"
        )
    stacked = next((name for name in source.weights.keys() if len(source.weights.shape(name)) > 2), None)  # noqa: SIM118
    if stacked is not None:
        raise UnsupportedModelError(
            f"{source.name} has stacked weights ({stacked}), as MoE models do, which `edgekiln quantize` does not "
            "support yet: quantize it with llm-compressor itself"
        )


def _planned(source: ModelSource, recipe: Recipe, model: PreTrainedModel, strict: bool) -> QuantizationPlan:
    supported = _supported_recipe(recipe, model)
    planned = plan_quantization(model, supported, source.weights.prequantized)
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    ignored = [name for name, module in model.named_modules() if module in ends]
    check_unquantized(model, supported, planned, ignored=ignored, strict=strict)
    return planned


def _supported_recipe(recipe: Recipe, model: PreTrainedModel) -> Recipe:
    """The recipe without the embedding, the head and layers of classes that compressed-tensors does not quantize."""
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    modules = dict(model.named_modules())
    skipped = [
        name for name in quantizable(model) if modules[name] in ends or not isinstance(modules[name], torch.nn.Linear)
    ]
    overrides = (*recipe.overrides, *(Override(match=name, skip=True) for name in skipped))
    return recipe.model_copy(update={"overrides": overrides})


class SupportedWeights:
    """The weights of a source, where only quantized weights with supported schemes count as quantized."""

    def __init__(self, weights: WeightReader) -> None:
        self.nbytes = weights.nbytes
        self.keys = weights.keys
        self.shape = weights.shape
        self.read = weights.read
        self.read_expert = weights.read_expert
        self._weights = weights

    def __contains__(self, name: object) -> bool:
        return name in self._weights

    def prequantized(self, name: str) -> PrequantizedWeight | None:
        """The forms of the quantized weight whose schemes are supported; None where there is none."""
        arrived = self._weights.prequantized(name)
        forms = [form for form in (arrived, *arrived.others) if is_supported(form.scheme)] if arrived else []
        return replace(forms[0], others=tuple(forms[1:])) if forms else None


def _notes(planned: QuantizationPlan, arrived: WeightReader) -> Iterator[str]:
    supported = SupportedWeights(arrived)
    # With float activations, codes in any scheme would have been kept, had the format supported it.
    weights = [layer.names[0] for layer in planned.layers if layer.scheme.activation == "none"]
    again = [name for name in weights if arrived.prequantized(name) and not supported.prequantized(name)]
    schemes = {layer.module: layer.scheme for layer in planned.layers}
    if again:
        yield (
            f"{len(again)} weights of the checkpoint have a scheme that compressed-tensors does not support and were "
            f"quantized again, for example {again[0]}"
        )
    for layers in fused_layers_with_mixed_schemes(schemes):
        yield f"{layers} have different schemes, so that vLLM cannot fuse them: give them one scheme in a recipe"


def _tensors(
    source: ModelSource, planned: QuantizationPlan, report: QuantizationReport, progress: Progress
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield all tensors by name, one at a time, and add each quantized weight to `report`."""
    quantized_names = {layer.names[0] for layer in planned.layers}
    for name in source.weights.keys():  # noqa: SIM118 - a WeightReader has no other iterator
        if name not in quantized_names:
            yield name, source.weights.read(name).detach().contiguous()
    total = len(planned.layers)
    for done, (layer, quantized, _) in enumerate(quantized_tensors(planned, source.weights)):
        report.layers[layer.module] = layer_report(quantized, measured_error(layer, quantized, source))
        for kind, tensor in checkpoint_tensors(quantized).items():
            yield f"{layer.module}.{kind}", tensor
        progress("quantize", (done + 1) / total)


def _write_tensors(directory: Path, tensors: Iterator[tuple[str, torch.Tensor]]) -> None:
    """Write safetensors files of at most `_SHARD_BYTES` of tensors each, with an index if there are several."""
    shards: list[list[str]] = []
    shard: dict[str, torch.Tensor] = {}
    total = size = 0

    def flush() -> None:
        path = directory / f"{len(shards)}.safetensors"
        save_file(shard, path, metadata={"format": "pt"})
        path.chmod(0o644)  # safetensors makes it readable by its owner only
        shards.append(list(shard))
        shard.clear()

    for name, tensor in tensors:
        if shard and size + tensor.nbytes > _SHARD_BYTES:
            flush()
            size = 0
        shard[name] = tensor
        size += tensor.nbytes
        total += tensor.nbytes
    flush()
    if len(shards) == 1:
        (directory / "0.safetensors").rename(directory / "model.safetensors")
        return
    where = {}
    for index, names in enumerate(shards):
        file = f"model-{index + 1:05}-of-{len(shards):05}.safetensors"
        (directory / f"{index}.safetensors").rename(directory / file)
        where.update(dict.fromkeys(names, file))
    write_json(directory / _INDEX, {"metadata": {"total_size": total}, "weight_map": where})


def _write_config(directory: Path, source: ModelSource, architecture: str, quantization: dict[str, Any]) -> None:
    config = copy.deepcopy(source.config)
    config.architectures = [architecture]
    values = json.loads(config.to_json_string(use_diff=True))
    # In place of the source's own, if it was quantized.
    values["quantization_config"] = quantization
    write_json(directory / "config.json", values)
    sampling = source.sampling.model_dump(exclude_none=True)
    tokens = source.special_tokens
    generation = GenerationConfig(
        bos_token_id=tokens.bos,
        eos_token_id=tokens.eos or None,
        pad_token_id=tokens.pad,
        do_sample=bool(set(sampling) - {"repetition_penalty"}),
        **sampling,
    )
    generation.save_pretrained(directory)


def _write_tokenizer(directory: Path, source: ModelSource) -> None:
    (directory / TOKENIZER_FILE).write_text(source.tokenizer_json, encoding="utf-8")
    # Every version of transformers knows this class; tokenizer.json holds everything else.
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    named = source.special_tokens.template_variables
    config.update({name: text for name, text in named.items() if name in _NAMED_TOKENS})
    if others := {name: text for name, text in named.items() if name not in _NAMED_TOKENS}:
        config["extra_special_tokens"] = others
    if isinstance(source.chat_template, str):
        (directory / CHAT_TEMPLATE_FILE).write_text(source.chat_template, encoding="utf-8")
    elif source.chat_template:
        config["chat_template"] = [{"name": name, "template": text} for name, text in source.chat_template.items()]
    if (length := getattr(source.config, "max_position_embeddings", None)) is not None:
        config["model_max_length"] = length
    write_json(directory / "tokenizer_config.json", config)
