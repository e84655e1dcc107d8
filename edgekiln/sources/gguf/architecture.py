"""The type of a row in the tables of architectures."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from edgekiln.sources.gguf.layouts import Merge, Undo
from edgekiln.sources.gguf.metadata import Metadata

RMS_EPSILON, LAYER_EPSILON = "attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"
RMS = (RMS_EPSILON, "rms_norm_eps")
DENSE = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
}
KV_HEADS = {"attention.head_count_kv": "num_key_value_heads"}


@dataclass(frozen=True)
class Architecture:
    """How a GGUF architecture becomes a transformers configuration and its weights.

    Attributes:
        model_type: as transformers names it.
        counts: metadata key without the prefix "<architecture>." -> field, of required positive integers.
        epsilon: metadata key and field of the norms' epsilon.
        numbers: metadata key -> field and default, of numbers that a file may leave out.
        fixed: fields that llama.cpp's code for the architecture fixes.
        neutral: keys that change nothing in this architecture, as `metadata.NEUTRAL`.
        rope: the architecture rotates queries and keys; otherwise it has learned positions, biases or none.
        attention: the architecture has attention in some layer.
        partial_rotary: the configuration can rotate a part of each head.
        head_dim: the configuration can have a head size other than hidden size / heads.
        predictors: the last blocks may predict further tokens; llama.cpp leaves them out, but for speculation.
        yarn_multiplier: the architecture has YaRN's mscale.
        layouts: regular expression for a name in the file, without "blk.N." -> how its layout is undone.
        merges: regular expression for the end of a name in the model, without ".weight" -> its parts in the file.
        read: reads what the other attributes do not express from the metadata into the fields.
    """

    model_type: str
    counts: Mapping[str, str]
    epsilon: tuple[str, str] = RMS
    numbers: Mapping[str, tuple[str, float | None]] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    neutral: Mapping[str, tuple[Any, ...] | None] = field(default_factory=dict)
    rope: bool = True
    attention: bool = True
    partial_rotary: bool = False
    head_dim: bool = True
    predictors: bool = False
    yarn_multiplier: bool = False
    layouts: Mapping[str, Undo] = field(default_factory=dict)
    merges: Mapping[str, Merge] = field(default_factory=dict)
    read: Callable[[Metadata, dict[str, Any]], None] | None = None
