"""A Hugging Face directory as a model source: config.json, tokenizer.json and safetensors."""

import re
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from edgekiln.engine.directory import ENGINE_FILE
from edgekiln.errors import SourceError, UnsupportedModelError, one_line
from edgekiln.sources.base import ModelSource
from edgekiln.sources.checkpoint_schema import check_counts, check_layers, check_types
from edgekiln.sources.generation_config import GENERATION_FILE, not_applied, read_generation_config, sampling_defaults
from edgekiln.sources.json_file import read_json
from edgekiln.sources.meta_model import meta_model
from edgekiln.sources.quantized.methods import PrequantizedTensors, quantization_config
from edgekiln.sources.safetensors import SafetensorsReader
from edgekiln.sources.tokenizer import load_tokenizer
from edgekiln.sources.unused_tensors import check_unused, unused_notes
from edgekiln.sources.weight_conversion import ConvertedWeights

CONFIG_FILE = "config.json"
_FIELD_OF_ERROR = re.compile(r"Validation error for field '(\w+)'")
_VALIDATOR = re.compile(r"^Class validation error for validator '\w+': (\w+: )?")
# Prefixes of the text decoder in vision-language checkpoints; older checkpoints use the first and third.
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
    config, key_mapping = _load_config(raw, directory, trust_remote_code)
    quantization = quantization_config(raw, directory)
    tensors = PrequantizedTensors(files, quantization, directory) if quantization else files
    files.check_floating(tensors.floats if isinstance(tensors, PrequantizedTensors) else files.keys())
    model = meta_model(config, trust_remote_code)
    weights = ConvertedWeights(tensors, model, str(directory), key_mapping)
    if weights.untied:
        config.tie_word_embeddings = False
    generation = read_generation_config(directory)
    tokenizer = load_tokenizer(directory, config, generation, trust_remote_code)
    check_unused(tensors, weights.unused, model, directory)
    unused = unused_notes(weights.unused, model)
    return ModelSource(
        model_id=model_id,
        name=name,
        config=config,
        tokenizer_json=tokenizer.json,
        chat_template=tokenizer.chat_template,
        special_tokens=tokenizer.special_tokens,
        sampling=sampling_defaults(generation or {}, directory / GENERATION_FILE),
        weights=weights,
        notes=(
            *(unused if not key_mapping else [f"only the text decoder of {type(model).__name__} is used"]),
            *not_applied(generation or {}),
        ),
    )


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


def _load_config(
    raw: dict[str, Any], directory: Path, trust_remote_code: bool
) -> tuple[PretrainedConfig, dict[str, str]]:
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
    check_counts(text, path)
    return text, {} if text is config else _DECODER_PREFIXES
