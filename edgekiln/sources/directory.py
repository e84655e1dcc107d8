"""A Hugging Face directory as a model source: config.json, tokenizer.json and safetensors."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from edgekiln.engine.directory import ENGINE_FILE
from edgekiln.errors import SourceError, UnsupportedModelError, one_line
from edgekiln.sources.base import ModelSource, WeightReader
from edgekiln.sources.checkpoint_schema import check_counts, check_layers, check_types
from edgekiln.sources.composite import Composite, causal_class, composite, composite_class, left_out
from edgekiln.sources.generation_config import GENERATION_FILE, not_applied, read_generation_config, sampling_defaults
from edgekiln.sources.json_file import read_json
from edgekiln.sources.meta_model import meta_model
from edgekiln.sources.part_weights import PartWeights
from edgekiln.sources.quantized.methods import PrequantizedTensors, quantization_config
from edgekiln.sources.safetensors import SafetensorsReader
from edgekiln.sources.tokenizer import load_tokenizer
from edgekiln.sources.unused_tensors import check_unused, unused_notes
from edgekiln.sources.weight_conversion import CheckpointTensors, ConvertedWeights

CONFIG_FILE = "config.json"
_FIELD_OF_ERROR = re.compile(r"Validation error for field '(\w+)'")
_VALIDATOR = re.compile(r"^Class validation error for validator '\w+': (\w+: )?")
# Prefixes of the text decoder in vision-language checkpoints whose model transformers does not have.
_DECODER_PREFIXES = {
    r"^language_model\.model\.": "model.",
    r"^model\.language_model\.": "model.",
    r"^language_model\.lm_head\.": "lm_head.",
}


def open_directory(model_id: str, name: str, directory: Path, trust_remote_code: bool = False) -> ModelSource:
    """Open a Hugging Face checkpoint. Reads headers and the tokenizer only.

    Args:
        model_id: what the user named, see `ModelSource`.
        name: short name of the model.
        directory: where the checkpoint is.
        trust_remote_code: run model code that the checkpoint contains. If off, such a checkpoint is refused.

    Raises:
        SourceError: a file is missing or damaged, or the checkpoint needs its own code and is not trusted.
        UnsupportedModelError: the model is not a causal language model, or its quantization cannot be read.
    """
    raw = read_config(directory)
    check_config(raw, directory, trust_remote_code)
    files = SafetensorsReader(directory)
    check_layers(raw, files.keys(), directory / CONFIG_FILE)
    config = load_config(raw, directory, trust_remote_code)
    quantization = quantization_config(raw, directory)
    tensors = PrequantizedTensors(files, quantization, directory) if quantization else files
    not_kept = tensors.notes if isinstance(tensors, PrequantizedTensors) else []
    floats = tensors.floats if isinstance(tensors, PrequantizedTensors) else files.keys()

    def check_floating(needed: set[str] | None) -> None:
        files.check_floating(floats if needed is None else needed.intersection(floats))

    model = _open_model(config, tensors, check_floating, directory, trust_remote_code)
    unquantized = set(floats)
    files.check_tables({name: wanted for name, wanted in model.integers.items() if name in unquantized})
    generation = read_generation_config(directory)
    tokenizer = load_tokenizer(directory, model.config, generation, trust_remote_code)
    return ModelSource(
        model_id=model_id,
        name=name,
        config=model.config,
        model_class=model.model_class,
        tokenizer_json=tokenizer.json,
        chat_template=tokenizer.chat_template,
        special_tokens=tokenizer.special_tokens,
        sampling=sampling_defaults(generation or {}, directory / GENERATION_FILE),
        weights=model.weights,
        notes=(*model.notes, *not_kept, *not_applied(generation or {})),
    )


@dataclass(frozen=True)
class _OpenModel:
    """The text decoder of a checkpoint, with the attributes of a `ModelSource`, and `ConvertedWeights.integers`."""

    config: PretrainedConfig
    model_class: type[PreTrainedModel] | None
    weights: WeightReader
    integers: dict[str, bool]
    notes: list[str]


def _open_model(
    config: PretrainedConfig,
    tensors: CheckpointTensors,
    check_floating: Callable[[set[str] | None], None],
    directory: Path,
    trust_remote_code: bool,
) -> _OpenModel:
    """Find the text decoder and its weights; `check_floating` gets the names of the tensors it needs, None for all."""
    text = config.get_text_config(decoder=True)
    composite_type = composite_class(config)
    if composite_type is not None and (text is not config or causal_class(config) is None):
        return _open_composite(composite(config, composite_type), tensors, check_floating, directory)
    check_floating(None)
    model = meta_model(text, trust_remote_code)
    weights = ConvertedWeights(tensors, model, str(directory), {} if text is config else _DECODER_PREFIXES)
    _set_ties(text, weights)
    check_unused(tensors, weights.unused, model, text, directory)
    notes = [*left_out(model), *unused_notes(weights.unused, model)]
    if text is not config:
        notes = [f"only the text decoder of {type(model).__name__} is used"]
    return _OpenModel(text, None, weights, weights.integers(), [*notes, *weights.notes()])


def _open_composite(
    found: Composite, tensors: CheckpointTensors, check_floating: Callable[[set[str] | None], None], directory: Path
) -> _OpenModel:
    config = found.decoder.config
    part = set(found.names.values())
    weights = ConvertedWeights(tensors, found.whole, str(directory), part=part, may_tie=found.may_tie)
    check_floating(weights.sources())
    _set_ties(config, weights)
    check_unused(tensors, weights.unused, found.whole, config, directory)
    notes = [*found.notes, *unused_notes(weights.unused, found.whole), *weights.notes()]
    model_class = type(found.decoder)
    own = None if model_class is causal_class(config) else model_class
    return _OpenModel(config, own, PartWeights(weights, found.names), weights.integers(), notes)


def _set_ties(config: PretrainedConfig, weights: ConvertedWeights) -> None:
    """Correct the configuration where the checkpoint has other ties."""
    if weights.untied or weights.tied:
        config.tie_word_embeddings = weights.tied


def read_config(directory: Path) -> dict[str, Any]:
    """Read config.json of a checkpoint.

    Raises:
        SourceError: the file is missing; the message names the format of the directory, if it is recognized.
    """
    path = directory / CONFIG_FILE
    if path.is_file():
        return read_json(path)
    if (directory / "adapter_config.json").is_file():
        raise SourceError(f"{directory} is an adapter without its base model: merge the two and give the result")
    if (directory / ENGINE_FILE).is_file():
        raise SourceError(f"{directory} is an engine already: `edgekiln run {directory}`")
    raise SourceError(f"{directory} has no {CONFIG_FILE}, so it is not a Hugging Face model directory")


def check_config(raw: dict[str, Any], where: object, trust_remote_code: bool) -> None:
    """Check a config.json before weights are opened or downloaded.

    Args:
        raw: config.json.
        where: the checkpoint, for error messages.
        trust_remote_code: accept a model type that the checkpoint's own code defines.

    Raises:
        SourceError: the model type needs the checkpoint's own code, which is not trusted.
        SourceError: a value of another type, or one that no model has.
        UnsupportedModelError: unknown model type, or a quantization that cannot be read.
    """
    check_types(raw, f"{where}/{CONFIG_FILE}")
    quantization_config(raw, where)
    model_type = raw.get("model_type")
    if model_type in CONFIG_MAPPING or trust_remote_code:
        return
    if raw.get("auto_map"):
        raise SourceError(
            f"{where} wants to run model code of its own ({model_type}): read it, then allow it with "
            "--trust-remote-code"
        )
    raise UnsupportedModelError(f"{where} has model type {model_type!r}, which this transformers does not know")


def load_config(raw: dict[str, Any], directory: Path, trust_remote_code: bool) -> PretrainedConfig:
    """The configuration of a checkpoint whose config.json is `raw`.

    Raises:
        SourceError: transformers refuses a value.
        UnsupportedModelError: an encoder-decoder.
    """
    path = directory / CONFIG_FILE
    try:
        config = AutoConfig.from_pretrained(directory, trust_remote_code=trust_remote_code, local_files_only=True)
    except Exception as error:
        # transformers validates each field with errors of many kinds.
        if field := _FIELD_OF_ERROR.match(str(error)):
            found = f"{raw[field[1]]!r:.60}" if field[1] in raw else "a value that does not fit"
            raise SourceError(f"{path} has {field[1]} {found}, which transformers refuses: correct it") from error
        raise SourceError(f"{path} is not usable: {_VALIDATOR.sub('', one_line(error))}") from error
    if config.is_encoder_decoder:
        raise UnsupportedModelError(
            f"model type {config.model_type} is an encoder-decoder: give a decoder-only text model"
        )
    text = config.get_text_config(decoder=True)
    if not isinstance(text, PretrainedConfig):
        raise SourceError(f"{path} has a text_config, which models of type {config.model_type} do not have: correct it")
    if getattr(text, "is_heterogeneous", False):  # layers differ, and transformers tells common values on request only
        text.allow_global_per_layer_attribute_access = True
    check_counts(text, path)
    return config
