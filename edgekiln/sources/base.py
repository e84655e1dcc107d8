"""What every model source offers: config, tokenizer, chat template and lazily read weights."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from edgekiln.engine.manifest import SamplingDefaults, SpecialTokens

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

    from edgekiln.calib.formats.prequantized import PrequantizedWeight

Progress = Callable[[str, float], None]


class WeightReader(Protocol):
    """Weights by the names of the transformers model's `state_dict`, read from disk one at a time.

    `keys` lists each stored tensor once. Of tensors that the model ties, only the source is listed; `in`, `shape` and
    `read` accept the tied name too.
    """

    nbytes: int  # bytes of the stored tensors, as stored

    def keys(self) -> Iterable[str]:
        """Names of the tensors the checkpoint holds for this model."""

    def __contains__(self, name: object) -> bool: ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape as the model has it, without reading the tensor."""

    def read(self, name: str) -> "torch.Tensor":
        """The tensor: float32, bfloat16 or float16 as stored; from GGUF dequantized to float32.

        Raises:
            KeyError: the model has no such tensor.
            SourceError: the file went away or is damaged.
        """

    def stored(self, name: str) -> "PrequantizedWeight | None":
        """The weight [N, K] as it arrives quantized; None if it is float, or quantized in a way only `read` takes."""


@dataclass(frozen=True)
class ModelSource:
    """A resolved reference. Nothing but headers and the tokenizer has been read."""

    reference: str
    name: str  # short and safe as a file name
    config: "PretrainedConfig"  # of the text decoder; AutoModelForCausalLM.from_config(config) builds the model
    tokenizer_json: str  # tokenizer.json of the `tokenizers` library
    chat_template: str | None
    special_tokens: SpecialTokens
    sampling: SamplingDefaults
    weights: WeightReader
    notes: tuple[str, ...] = ()  # what a careful reader of the build report should know
    # float [T, K] of what layers read on calibration data, by module; for measuring what quantization does to them
    layer_inputs: "Mapping[str, torch.Tensor]" = field(default_factory=dict)
