"""A GGUF file as a model source: transformers' own config, name and layout mapping, tensors dequantized one by one."""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from tokenizers import AddedToken, processors
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.integrations.ggml import GGUF_TOKENIZER_MAPPING, convert_gguf_tokenizer
from transformers.modeling_gguf_pytorch_utils import (
    GGUF_SUPPORTED_ARCHITECTURES,
    TENSOR_PROCESSORS,
    TensorProcessor,
    get_gguf_hf_weights_map,
    load_gguf_checkpoint,
)

from edgekiln.bundle import SamplingDefaults
from edgekiln.conversion import ConvertedWeights, meta_model
from edgekiln.errors import SourceError, UnsupportedModelError
from edgekiln.gguf_file import GgufFile
from edgekiln.sources import ModelSource
from edgekiln.tokenizer_source import TokenizerSource, finish

_EMBEDDING = "token_embd.weight"
_CONTROL, _USER_DEFINED = 3, 4  # tokenizer.ggml.token_type
_END_TOKENS = ("eos_token_id", "eot_token_id", "eom_token_id")


def open_gguf(reference: str, name: str, path: Path) -> ModelSource:
    """Open a GGUF file; reads the header and the vocabulary only.

    Raises:
        SourceError: not a GGUF file, truncated or damaged, or without what the model needs.
        UnsupportedModelError: an architecture transformers cannot map.
    """
    file = GgufFile(path)
    parsed = _parse_config(file)
    config = _config(file, parsed)
    model = meta_model(config)
    stored = MappedTensors(file, model, parsed)
    weights = ConvertedWeights(stored, model, str(path))
    tokenizer = _tokenizer(file, config)
    return ModelSource(
        reference=reference,
        name=name,
        config=config,
        tokenizer_json=tokenizer.json,
        chat_template=tokenizer.chat_template,
        tokens=tokenizer.tokens,
        sampling=SamplingDefaults(),
        weights=weights,
        notes=tuple(f"{key} in the GGUF is not part of {type(model).__name__}" for key in stored.unused),
    )


class MappedTensors:
    """GGUF tensors by the model's names and in the model's layout (llama.cpp permutes and merges some)."""

    def __init__(self, file: GgufFile, model: PreTrainedModel, parsed: dict[str, Any]) -> None:
        self._file = file
        self._shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        architecture = file.get("general.architecture")
        self._processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=parsed)
        self._names: dict[str, str] = get_gguf_hf_weights_map(_Names(model), self._processor)
        self._parts: dict[str, list[str]] = {}
        self.unused = []
        for name in file.tensors:
            # Merged experts are mapped without their suffix.
            target = self._names.get(name) or self._names.get(name.removesuffix(".weight"))
            if target is None:
                self.unused.append(name)
            else:
                self._parts.setdefault(target, []).append(name)
        self.nbytes = sum(info.nbytes for info in file.tensors.values())

    def keys(self) -> Iterable[str]:
        return self._parts.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def read(self, name: str) -> torch.Tensor:
        # Processors of merged tensors write into this dictionary instead of returning.
        collected: dict[str, torch.Tensor] = {}
        for part in self._parts[name]:
            result = self._processor.process(
                weights=self._file.read(part),
                name=part,
                tensor_key_mapping=self._names,
                parsed_parameters={"tensors": collected},
            )
            if result.name is not None:
                collected[name] = torch.from_numpy(np.ascontiguousarray(result.weights))
        return collected[name]


class _Names:
    """The part of a model that transformers' name mapping looks at.

    Given the model it builds gguf's whole table again for each module (14 s for 30 layers); only the model itself and
    its decoder, whose names some files use, can matter.
    """

    def __init__(self, model: torch.nn.Module, config: PretrainedConfig | None = None) -> None:
        self.config = config or model.config
        self._model = model
        self._is_root = config is None

    def state_dict(self) -> dict[str, torch.Tensor]:
        return self._model.state_dict()

    def named_children(self) -> list[tuple[str, "_Names"]]:
        prefix = getattr(self._model, "base_model_prefix", "")
        decoder = getattr(self._model, prefix, None) if self._is_root and prefix else None
        return [(prefix, _Names(decoder, self.config))] if isinstance(decoder, torch.nn.Module) else []


def _parse_config(file: GgufFile) -> dict[str, Any]:
    """The configuration as transformers reads it from the metadata.

    transformers parses every vocabulary entry through numpy to get there; it is given a small GGUF with the same
    metadata and tensor names but without the vocabulary.
    """
    architecture = file.get("general.architecture")
    if not isinstance(architecture, str):
        raise SourceError(f"{file.path} names no general.architecture: it is not a model")
    if _EMBEDDING not in file.tensors:
        raise SourceError(f"{file.path} has no {_EMBEDDING}: it is not a whole language model")
    with tempfile.TemporaryDirectory(prefix="edgekiln-") as directory:
        small = Path(directory) / "header.gguf"
        writer = gguf.GGUFWriter(small, architecture)
        for key, field in file.metadata.items():
            if key != "general.architecture" and not key.startswith("tokenizer.") and not key.startswith("GGUF."):
                kind = gguf.GGUFValueType(field.type)
                element = None if field.element is None else gguf.GGUFValueType(field.element)
                writer.add_key_value(key, field.value, kind, element)
        for name in file.tensors:
            writer.add_tensor(name, np.zeros(1, dtype=np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        try:
            parsed = load_gguf_checkpoint(str(small))["config"]
        except (ValueError, KeyError) as error:
            supported = ", ".join(sorted(set(GGUF_SUPPORTED_ARCHITECTURES) - {"general", "tokenizer"}))
            raise UnsupportedModelError(
                f"{file.path} holds the architecture {architecture}, which cannot be read from GGUF yet (can: "
                f"{supported}): give its Hugging Face directory"
            ) from error
    # Files may pad the vocabulary beyond the tokenizer's; the tensor is what the model has.
    parsed["vocab_size"] = file.tensors[_EMBEDDING].shape[0]
    return parsed


def _config(file: GgufFile, parsed: dict[str, Any]) -> PretrainedConfig:
    ids = {name: file.get(f"tokenizer.ggml.{name}") for name in ("bos_token_id", "eos_token_id")}
    ids["pad_token_id"] = file.get("tokenizer.ggml.padding_token_id")
    known = {name: value for name, value in ids.items() if value is not None}
    return AutoConfig.for_model(**{**known, **parsed})


def _tokenizer(file: GgufFile, config: PretrainedConfig) -> TokenizerSource:
    names = GGUF_TOKENIZER_MAPPING["tokenizer"]
    vocabulary = {
        short: file.get(f"tokenizer.{key}") for key, short in names.items() if f"tokenizer.{key}" in file.metadata
    }
    if not vocabulary.get("tokens"):
        raise SourceError(f"{file.path} carries no tokenizer: give the model's Hugging Face directory")
    try:
        tokenizer, _ = convert_gguf_tokenizer(config.model_type, vocabulary)
    except (KeyError, ValueError, AttributeError, TypeError) as error:
        raise UnsupportedModelError(
            f"{file.path} has a tokenizer for {config.model_type} that cannot be converted ({error!r}): "
            "give the model's Hugging Face directory"
        ) from error
    tokens = vocabulary["tokens"]
    kinds = vocabulary.get("token_type") or []
    special = [AddedToken(tokens[i], normalized=False, special=True) for i, kind in enumerate(kinds) if kind == _CONTROL]
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens([AddedToken(tokens[i], normalized=False) for i, kind in enumerate(kinds) if kind == _USER_DEFINED])
    begin = file.get("tokenizer.ggml.bos_token_id")
    # llama.cpp's defaults: SentencePiece models begin with bos, byte-level ones do not, unless the file says.
    add_begin = file.get("tokenizer.ggml.add_bos_token", vocabulary.get("tokenizer_type") == "llama")
    if add_begin and begin is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[tokens[begin], "$A"],
            pair=[tokens[begin], "$A", tokens[begin], "$B"],
            special_tokens=[(tokens[begin], begin)],
        )
    end = [file.get(f"tokenizer.ggml.{name}") for name in _END_TOKENS]
    return finish(
        tokenizer,
        file.get("tokenizer.chat_template"),
        begin,
        [token for token in end if token is not None],
        file.get("tokenizer.ggml.padding_token_id"),
    )
