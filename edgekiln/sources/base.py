"""The types that all model sources share: configuration, tokenizer, chat template and lazily read weights."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from edgekiln.engine.manifest import SamplingDefaults, SpecialTokens

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

    from edgekiln.calib.formats.prequantized import PrequantizedWeight


class WeightReader(Protocol):
    """Weights under the names of the transformers model's `state_dict`, read from disk one at a time.

    Of tied weights, `keys` lists only the one that the others are tied to; `in`, `shape`, `read` and `prequantized`
    accept every name.

    Attributes:
        nbytes: size of the checkpoint's tensors on disk, in bytes.
    """

    nbytes: int

    def keys(self) -> Iterable[str]:
        """Names of the tensors that the checkpoint holds for this model, without tied duplicates."""

    def __contains__(self, name: object) -> bool: ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of the tensor in the model. Does not read the tensor."""

    def read(self, name: str) -> "torch.Tensor":
        """Read one tensor as float32, bfloat16 or float16; prequantized tensors are dequantized to float32.

        Tables of integers are int64 or bool.

        Raises:
            KeyError: the model has no such tensor.
            SourceError: the file is damaged, or no longer there.
        """

    def read_expert(self, name: str, index: int) -> "torch.Tensor":
        """Read one expert of a tensor [E, ...]: `read(name)[index]`, where possible without reading the other experts.

        Raises:
            KeyError, SourceError: as `read`.
        """

    def prequantized(self, name: str) -> "PrequantizedWeight | None":
        """The weight [N, K] with the codes and scales of the checkpoint.

        A stack of experts is the weight [E * N, K] of all experts, one below the other, each with its outputs as rows,
        also where the model has [E, K, N]; `PrequantizedWeight.experts` has them one by one.

        None if the checkpoint holds floats, or if the codes cannot be kept and `read` has to be used.
        """


@dataclass(frozen=True)
class ModelSource:
    """A model that `resolve` found. Only headers and the tokenizer have been read so far.

    Attributes:
        model_id: the model argument: a directory, a GGUF file, a hub id or an alias.
        name: short name of the model, safe as a file name.
        config: configuration of the text decoder.
        tokenizer_json: tokenizer.json of the `tokenizers` library, as text.
        chat_template: the Jinja chat template, or several by name; None if the model has none.
        special_tokens: token ids for the beginning and end of a text, and for padding.
        sampling: sampling defaults of generation_config.json.
        weights: the weights.
        notes: remarks for the build report, for instance on approximations.
        model_class: class of the text decoder, where it is not the one of `AutoModelForCausalLM.from_config(config)`.
        layer_inputs: calibration activations, float [T, K] by module name, with which the output error of quantized
            layers is measured; empty without calibration.
    """

    model_id: str
    name: str
    config: "PretrainedConfig"
    tokenizer_json: str
    chat_template: str | dict[str, str] | None
    special_tokens: SpecialTokens
    sampling: SamplingDefaults
    weights: WeightReader
    notes: tuple[str, ...] = ()
    model_class: "type[PreTrainedModel] | None" = None
    layer_inputs: "Mapping[str, torch.Tensor]" = field(default_factory=dict)

    def local_paths(self) -> list[Path]:
        """The path that the model argument names, if it is one on this machine: an output must not replace it."""
        path = Path(os.path.expanduser(self.model_id))
        return [path] if os.path.exists(path) else []
