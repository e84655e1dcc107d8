"""A local Hugging Face directory: config.json, tokenizer.json and safetensors, single or sharded."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from edgekiln.calib.formats.prequantized import PrequantizedWeight
from edgekiln.errors import SourceError, UnsupportedModelError
from edgekiln.sources.base import ModelSource
from edgekiln.sources.quantized.methods import QuantizedFiles, quantization_config
from edgekiln.sources.tokenizer import load_tokenizer, sampling_defaults
from edgekiln.sources.weight_conversion import ConvertedWeights, meta_model, one_line

CONFIG_FILE = "config.json"
GENERATION_FILE = "generation_config.json"
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_DTYPES = ("F32", "F16", "BF16", "F64")
# Where vision-language checkpoints keep their decoder, by age of the checkpoint.
_DECODER_PREFIXES = {
    r"^language_model\.model\.": "model.",
    r"^model\.language_model\.": "model.",
    r"^language_model\.lm_head\.": "lm_head.",
}


def open_directory(reference: str, name: str, directory: Path, trust_remote_code: bool = False) -> ModelSource:
    """Open a Hugging Face model directory; reads headers and the tokenizer only.

    Raises:
        SourceError: something is missing or damaged, or the checkpoint wants its own code to run.
        UnsupportedModelError: weights quantized in a way that cannot be carried, or not a causal language model.
    """
    raw = read_config(directory)
    check_config(raw, directory, trust_remote_code)
    config, key_mapping = _load_config(directory, trust_remote_code)
    files = SafetensorsFiles(directory)
    quantization = quantization_config(raw, directory)
    stored = QuantizedFiles(files, quantization, directory) if quantization else files
    files.check_floating(stored.floats if isinstance(stored, QuantizedFiles) else files.keys())
    model = meta_model(config, trust_remote_code)
    weights = ConvertedWeights(stored, model, str(directory), key_mapping)
    if weights.untied:
        config.tie_word_embeddings = False
    generation = read_json(directory / GENERATION_FILE) if (directory / GENERATION_FILE).is_file() else {}
    tokenizer = load_tokenizer(directory, config, generation, trust_remote_code)
    notes = tuple(f"{key} in the checkpoint is not part of {type(model).__name__}" for key in weights.unused)
    return ModelSource(
        reference=reference,
        name=name,
        config=config,
        tokenizer_json=tokenizer.json,
        chat_template=tokenizer.chat_template,
        special_tokens=tokenizer.tokens,
        sampling=sampling_defaults(generation),
        weights=weights,
        notes=notes if not key_mapping else (f"only the text decoder of {type(model).__name__} is used",),
    )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, or a SourceError that names the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise SourceError(f"{path} is not valid JSON ({error}): download it again") from error
    if not isinstance(value, dict):
        raise SourceError(f"{path} holds no JSON object: download it again")
    return value


def read_config(directory: Path) -> dict[str, Any]:
    """config.json of a model directory."""
    path = directory / CONFIG_FILE
    if path.is_file():
        return read_json(path)
    if (directory / "adapter_config.json").is_file():
        raise SourceError(f"{directory} is an adapter without its base model: merge the two and give the result")
    if (directory / "engine.json").is_file():
        raise SourceError(f"{directory} is an engine already: `edgekiln run {directory}`")
    raise SourceError(f"{directory} has no {CONFIG_FILE}, so it is not a Hugging Face model directory")


def check_config(raw: dict[str, Any], where: object, trust_remote_code: bool) -> None:
    """Refuse what must not or cannot be read, before weights are opened or downloaded."""
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


def _load_config(directory: Path, trust_remote_code: bool) -> tuple[PretrainedConfig, dict[str, str]]:
    try:
        config = AutoConfig.from_pretrained(directory, trust_remote_code=trust_remote_code, local_files_only=True)
    except Exception as error:
        # transformers validates each field with errors of many kinds.
        raise SourceError(f"{directory / CONFIG_FILE} is not usable: {one_line(error)}") from error
    if config.is_encoder_decoder:
        raise UnsupportedModelError(
            f"model type {config.model_type} is an encoder-decoder: give a decoder-only text model"
        )
    text = config.get_text_config(decoder=True)
    return text, {} if text is config else _DECODER_PREFIXES


class SafetensorsFiles:
    """The safetensors of a directory as one set of named tensors, memory-mapped.

    Raises:
        SourceError: no safetensors (pickled weights are never loaded), a missing, truncated or damaged shard.
    """

    def __init__(self, directory: Path) -> None:
        self._where: dict[str, Any] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._dtypes: dict[str, str] = {}
        self._directory = directory
        self.nbytes = 0
        for path, names in _shards(directory).items():
            self._add(path, names)

    def keys(self) -> Iterable[str]:
        return self._where.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def read(self, name: str) -> torch.Tensor:
        return self._where[name].get_tensor(name)

    def stored(self, _name: str) -> PrequantizedWeight | None:
        """None: nothing here is quantized."""
        return None

    def check_floating(self, names: Iterable[str]) -> None:
        """See that tensors are floats.

        Raises:
            UnsupportedModelError: one is an integer or an 8-bit float.
        """
        for name in names:
            if self._dtypes[name] not in _DTYPES:
                raise UnsupportedModelError(
                    f"{self._directory} stores {name} as {self._dtypes[name]}, which cannot be read yet: "
                    "give a float32, float16 or bfloat16 checkpoint"
                )

    def _add(self, path: Path, names: list[str] | None) -> None:
        try:
            handle = safe_open(path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise SourceError(f"{path} is truncated or damaged ({error}): download it again") from error
        found = set(handle.keys())
        if names is not None and not found.issuperset(names):
            raise SourceError(f"{path} lacks {sorted(set(names) - found)[0]} that {INDEX_FILE} promises")
        for name in sorted(found) if names is None else names:
            view = handle.get_slice(name)
            self._where[name] = handle
            self._shapes[name] = tuple(view.get_shape())
            self._dtypes[name] = view.get_dtype()
        self.nbytes += path.stat().st_size


def _shards(directory: Path) -> dict[Path, list[str] | None]:
    single, index = directory / SINGLE_FILE, directory / INDEX_FILE
    if single.is_file():
        return {single: None}
    if not index.is_file():
        pickles = [path.name for pattern in _PICKLES for path in sorted(directory.glob(pattern))]
        if pickles:
            raise SourceError(
                f"{directory} has only pickled weights ({pickles[0]}), which can run code when loaded: "
                "convert them to safetensors"
            )
        raise SourceError(f"{directory} has neither {SINGLE_FILE} nor {INDEX_FILE}: download it again")
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise SourceError(f"{index} has no weight_map: download it again")
    shards: dict[Path, list[str] | None] = {}
    for name, file in weight_map.items():
        if not isinstance(file, str) or Path(file).name != file:
            raise SourceError(f"{index} points {name} outside its directory ({file!r}): do not trust this checkpoint")
        path = directory / file
        if path not in shards and not path.is_file():
            raise SourceError(f"{path} is missing: download it again")
        names = shards.setdefault(path, [])
        assert names is not None
        names.append(name)
    return shards
