"""Typed reads of a GGUF file's metadata that note which keys were read, so that no key is ignored in silence.

llama.cpp applies the keys that its code for the architecture reads. A key that nothing here reads and that is not known
to have no effect is refused: ignoring it could make the engine silently wrong.
"""

from collections.abc import Mapping
from typing import Any

from edgekiln.errors import SourceError, UnsupportedModelError
from edgekiln.sources.gguf.reader import GgufFile

_MAX_COUNT = 2**31 - 1
_MAX_NUMBER = 3.4e38  # of float32, the type of all numbers
# Keys that llama.cpp reads as one value or as one a layer.
_PER_LAYER = ("attention.head_count", "attention.head_count_kv", "feed_forward_length")
# Keys without the prefix "<architecture>." that change nothing at the given values; None stands for every value.
NEUTRAL: Mapping[str, tuple[Any, ...] | None] = {
    "attention.causal": (True,),
    "attention.clamp_kqv": (0,),
    "attention.max_alibi_bias": (0,),
    "attention.scale": (0,),
    "attention.sliding_window": (0,),
    "attn_logit_softcapping": (0,),
    "embedding_scale": (0, 1),
    "expert_count": (0,),
    "expert_feed_forward_length": (0,),
    "expert_gating_func": (0,),
    "expert_group_count": (0, 1),
    "expert_group_used_count": (0, 1),
    "expert_shared_count": (0,),
    "expert_shared_feed_forward_length": (0,),
    "expert_used_count": (0,),
    "expert_weights_norm": (False,),
    "expert_weights_scale": (0, 1),
    "final_logit_softcapping": (0,),
    "interleave_moe_layer_step": (0, 1),
    "leading_dense_block_count": (0,),
    "logit_scale": (0, 1),
    "moe_every_n_layers": (0,),
    "n_deepstack_layers": (0,),
    "nextn_predict_layers": (0,),
    "pooling_type": (0,),
    "residual_scale": (0, 1),
    "rope.scaling.alpha": (0, 1),
    "rope.scaling.finetuned": None,
    "router_logit_softcapping": (0,),
    # The embedding has the model's size.
    "vocab_size": None,
}


class Metadata:
    """The keys "<architecture>.*" of a GGUF file.

    Args:
        file: the GGUF file.
        architecture: the value of general.architecture.
    """

    def __init__(self, file: GgufFile, architecture: str) -> None:
        self.file = file
        self.architecture = architecture
        self._read: set[str] = set()

    def value(self, key: str) -> Any:
        """The value of "<architecture>.key", None without the key. The same value for each layer is one value."""
        self._read.add(key)
        value = self.file.get(f"{self.architecture}.{key}")
        if key in _PER_LAYER and isinstance(value, list):
            value = self.array(key, self.count("block_count"))
            return value[0] if value and all(item == value[0] for item in value) else value
        return value

    def array(self, key: str, length: int) -> list[Any] | None:
        """The value of a key as one value a layer: a scalar is repeated.

        Raises:
            SourceError: it is an array of another length.
        """
        self._read.add(key)
        value = self.file.get(f"{self.architecture}.{key}")
        if isinstance(value, list) and len(value) != length:
            raise self.damaged(key, f"{len(value)} values", f"one for each of the {length} layers")
        return value if isinstance(value, list) or value is None else [value] * length

    def count(self, key: str, default: int | None = None) -> int:
        """A positive integer; a missing key without a default is an error.

        Raises:
            SourceError: the key is missing, or no positive integer.
            UnsupportedModelError: layers have different values.
        """
        value = self._scalar(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MAX_COUNT:
            raise self.damaged(key, value, f"an integer from 1 to {_MAX_COUNT}")
        return value

    def number(self, key: str, default: float | None = None, *, zero: bool = False) -> float:
        """A finite positive number, or also 0 with `zero`; a missing key without a default is an error.

        Raises:
            SourceError: the key is missing, or no such number.
            UnsupportedModelError: layers have different values.
        """
        value = self._scalar(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _MAX_NUMBER:
            raise self.damaged(key, value, "a finite number")
        if value < 0 or (value == 0 and not zero):
            raise self.damaged(key, value, "positive")
        return float(value)

    def text(self, key: str, default: str) -> str:
        """A string.

        Raises:
            SourceError: the value has another type.
        """
        value = self._scalar(key, default)
        if not isinstance(value, str):
            raise self.damaged(key, value, "a text")
        return value

    def damaged(self, key: str, value: Any, wanted: str) -> SourceError:
        """The error for a value that no converter writes."""
        return SourceError(
            f"{self.file.path} is damaged: {self.architecture}.{key} is {value!r:.60}, it must be {wanted}; "
            "download or convert it again"
        )

    def unsupported(self, key: str, feature: str = "") -> UnsupportedModelError:
        """The error for a key that llama.cpp applies and that cannot be expressed in the configuration."""
        value = self.file.get(f"{self.architecture}.{key}")
        return UnsupportedModelError(
            f"{self.file.path} sets {self.architecture}.{key} = {value!r:.60}{feature and f' ({feature})'}, which "
            "cannot be read from GGUF yet: give the model's Hugging Face directory"
        )

    def check_all_read(self, neutral: Mapping[str, tuple[Any, ...] | None]) -> None:
        """Check that every key was read or has no effect.

        Args:
            neutral: as `NEUTRAL`, for this architecture; goes before `NEUTRAL`.

        Raises:
            UnsupportedModelError: a key is neither; the message names it and its value.
        """
        allowed = {**NEUTRAL, **neutral}
        for name in self.file.metadata:
            prefix, _, key = name.partition(".")
            if prefix != self.architecture or key in self._read:
                continue
            accepted = allowed.get(key, ())
            if accepted is not None and self.value(key) not in accepted:
                raise self.unsupported(key)

    def _scalar(self, key: str, default: Any) -> Any:
        value = self.value(key)
        if key in _PER_LAYER and isinstance(value, list):
            raise self.unsupported(key, "it differs between layers")
        if value is None and default is None:
            raise SourceError(
                f"{self.file.path} lacks {self.architecture}.{key}, which every {self.architecture} file has: "
                "download or convert it again"
            )
        return default if value is None else value
