"""A quantized model as a Hugging Face checkpoint in the compressed-tensors format, for servers on many devices."""

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import GenerationConfig, PreTrainedModel

from edgekiln.calib.analysis.layer_report import layer_report
from edgekiln.calib.analysis.output_error import measured_error
from edgekiln.calib.formats.compressed_tensors import configuration, expressible, split_siblings, stored_tensors
from edgekiln.calib.formats.prequantized import PrequantizedWeight
from edgekiln.calib.quantization_plan import QuantizationPlan, plan, quantizable, quantized_tensors
from edgekiln.calib.recipe import Override, Recipe
from edgekiln.engine.directory import (
    CHAT_TEMPLATE_FILE,
    QUANTIZATION_FILE,
    TOKENIZER_FILE,
    atomic_directory,
    write_json,
)
from edgekiln.engine.reports import QuantizationReport
from edgekiln.errors import UnsupportedModelError
from edgekiln.pipeline.options import BuildOptions
from edgekiln.sources.base import ModelSource, WeightReader
from edgekiln.sources.meta_model import meta_model

Progress = Callable[[str, float], None]
# Bytes of tensors in one file.
_SHARD = 4 << 30
_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Checkpoint:
    """What `save_compressed_tensors` wrote: bytes of all files, and sentences for the user."""

    size: int
    notes: tuple[str, ...]


def is_checkpoint(directory: Path) -> bool:
    """Whether `save_compressed_tensors` made this directory: a model that lies there with the record of its quantization."""
    return (directory / QUANTIZATION_FILE).is_file() and (directory / "config.json").is_file()


def save_compressed_tensors(source: ModelSource, output: Path, options: BuildOptions, progress: Progress) -> Checkpoint:
    """Quantize `source` and write it as a checkpoint directory at `output`, whole or not at all.

    The embedding and the head stay in floating point: servers do not take them quantized.

    Args:
        source: the model.
        output: directory to make; a checkpoint that this function wrote there is replaced.
        options: the recipe and its calibration; the target and the length play no part.
        progress: called with the step and how much of it is done.

    Raises:
        UnsupportedModelError: a model with weights that the format cannot carry, or nothing to quantize.
        EngineError: `output` cannot be written, or holds something else.
        SourceError: a weight is damaged.
    """
    with atomic_directory(output, is_checkpoint, "a checkpoint of `edgekiln quantize`") as directory:
        recipe = options.chosen_recipe
        _check_model(source)
        arrived = source.weights
        source = replace(source, weights=ExpressibleWeights(arrived))
        if recipe.calibrates or options.chosen_limits:
            from edgekiln.pipeline.calibration import calibrated

            progress("calibrate", 0.0)
            source, recipe = calibrated(source, recipe, options.data, options.chosen_limits, progress)
        model = meta_model(source.config)
        architecture = type(model).__name__
        planned = plan(model, _without_ends(recipe, model), source.weights.prequantized)
        schemes = {layer.module: layer.scheme for layer in planned.layers}
        if not schemes:
            raise UnsupportedModelError(
                f"nothing to quantize in {source.name}: its layers, by the recipe or by their kind, stay in floating "
                "point"
            )
        notes = [*source.notes, *planned.notes, *_notes(planned, arrived)]
        record = QuantizationReport(scheme=options.quant, layers={})
        _write_tensors(directory, _tensors(source, planned, record, progress))
        write_json(directory / QUANTIZATION_FILE, record.model_dump())
        linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
        ignore = [name for name in linear if name not in schemes]
        _write_config(directory, source, architecture, configuration(schemes, ignore))
        _write_tokenizer(directory, source)
        size = sum(path.stat().st_size for path in directory.iterdir())
    progress("done", 1.0)
    return Checkpoint(size, tuple(notes))


def _check_model(source: ModelSource) -> None:
    stacked = next((name for name in source.weights.keys() if len(source.weights.shape(name)) > 2), None)  # noqa: SIM118
    if stacked is not None:
        raise UnsupportedModelError(
            f"{source.name} has stacked weights ({stacked}), as of experts, which cannot be handed over yet: "
            "quantize it with llm-compressor itself"
        )


def _without_ends(recipe: Recipe, model: PreTrainedModel) -> Recipe:
    """The recipe with the embedding and the head skipped, and what compressed-tensors does not take for a layer."""
    apart = (model.get_input_embeddings(), model.get_output_embeddings())
    modules = dict(model.named_modules())
    left = [
        name for name in quantizable(model) if modules[name] in apart or not isinstance(modules[name], torch.nn.Linear)
    ]
    overrides = (*recipe.overrides, *(Override(match=name, skip=True) for name in left))
    return recipe.model_copy(update={"overrides": overrides})


class ExpressibleWeights:
    """A source's weights of which only grids that the format has count as quantized; see `WeightReader`."""

    def __init__(self, weights: WeightReader) -> None:
        self.nbytes = weights.nbytes
        self.keys = weights.keys
        self.shape = weights.shape
        self.read = weights.read
        self._weights = weights

    def __contains__(self, name: object) -> bool:
        return name in self._weights

    def prequantized(self, name: str) -> PrequantizedWeight | None:
        """The forms of the weight that the format has; None where there is none."""
        arrived = self._weights.prequantized(name)
        forms = [form for form in (arrived, *arrived.others) if expressible(form.scheme)] if arrived else []
        return replace(forms[0], others=tuple(forms[1:])) if forms else None


def _notes(planned: QuantizationPlan, arrived: WeightReader) -> Iterator[str]:
    usable = ExpressibleWeights(arrived)
    # Where only weights are quantized, any grid would have been kept, had the format got it.
    weights = [layer.names[0] for layer in planned.layers if layer.scheme.activation == "none"]
    again = [name for name in weights if arrived.prequantized(name) and not usable.prequantized(name)]
    schemes = {layer.module: layer.scheme for layer in planned.layers}
    if again:
        yield (
            f"{len(again)} weights came in a grid that compressed-tensors does not have and were quantized again, "
            f"{again[0]} for one"
        )
    for siblings in split_siblings(schemes):
        yield f"{siblings} have different schemes, which vLLM cannot join: give them one in a recipe"


def _tensors(
    source: ModelSource, planned: QuantizationPlan, record: QuantizationReport, progress: Progress
) -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors by name, one at a time; what became of each weight goes into `record`."""
    quantized_names = {layer.names[0] for layer in planned.layers}
    for name in source.weights.keys():  # noqa: SIM118 - a WeightReader has no other iterator
        if name not in quantized_names:
            yield name, source.weights.read(name).detach().contiguous()
    total = len(planned.layers)
    for done, (layer, quantized, _) in enumerate(quantized_tensors(planned, source.weights.read)):
        record.layers[layer.module] = layer_report(quantized, measured_error(layer, quantized, source))
        for kind, tensor in stored_tensors(quantized).items():
            yield f"{layer.module}.{kind}", tensor
        progress("quantize", (done + 1) / total)


def _write_tensors(directory: Path, tensors: Iterator[tuple[str, torch.Tensor]]) -> None:
    """Write safetensors files of up to `_SHARD` bytes of tensors each, with an index if there are several."""
    shards: list[list[str]] = []
    shard: dict[str, torch.Tensor] = {}
    total = size = 0

    def flush() -> None:
        path = directory / f"{len(shards)}.safetensors"
        save_file(shard, path, metadata={"format": "pt"})
        path.chmod(0o644)  # the library keeps it from everybody else
        shards.append(list(shard))
        shard.clear()

    for name, tensor in tensors:
        if shard and size + tensor.nbytes > _SHARD:
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
    # What a source was quantized with is not what it is quantized with now.
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
    if source.chat_template:
        (directory / CHAT_TEMPLATE_FILE).write_text(source.chat_template, encoding="utf-8")
    tokens = source.special_tokens
    ids = {"bos_token": tokens.bos, "eos_token": tokens.eos[0] if tokens.eos else None, "pad_token": tokens.pad}
    text = Tokenizer.from_str(source.tokenizer_json).id_to_token
    # The class that every version of transformers knows; tokenizer.json has all else.
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    config.update({name: text(token) for name, token in ids.items() if token is not None})
    if (length := getattr(source.config, "max_position_embeddings", None)) is not None:
        config["model_max_length"] = length
    write_json(directory / "tokenizer_config.json", config)
