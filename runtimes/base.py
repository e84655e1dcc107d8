"""What every runtime offers the generate loop: sequences go in as token ids, logits come out.

No padding anywhere: the rows of a cache are ragged, each with its own length. A row is prefilled alone, all rows are
stepped together.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from edgekiln.engine.manifest import EngineManifest
from edgekiln.errors import RequestError

Ids = NDArray[np.int64]
Logits = NDArray[np.float32]
KernelsChoice = Literal["edgekiln", "onnxruntime"]


@dataclass(frozen=True)
class Properties:
    """What the loop may ask of an engine; `max_length` is in tokens, the other sizes in elements of each layer."""

    target: str
    vocab_size: int
    max_length: int
    layers: int
    kv_heads: tuple[int, ...]
    head_dims: tuple[int, ...]

    @classmethod
    def from_manifest(cls, manifest: EngineManifest) -> "Properties":
        """The properties an engine.json states."""
        architecture = manifest.architecture
        return cls(
            target=manifest.target,
            vocab_size=architecture.vocab_size,
            max_length=architecture.max_length,
            layers=architecture.layers,
            kv_heads=tuple(architecture.kv_heads),
            head_dims=tuple(architecture.head_dims),
        )


class KVCache(Protocol):
    """Keys and values of a batch of sequences, for one thread at a time."""

    @property
    def batch_size(self) -> int:
        """Number of rows."""

    @property
    def lengths(self) -> Ids:
        """int64[B], tokens each row holds. Read it; change it with `rewind`."""

    @property
    def capacity(self) -> int:
        """Tokens a row can hold before the buffer grows; it grows by itself, up to the engine's max_length."""

    def tokens(self, row: int) -> Ids:
        """int64[lengths[row]], the ids the row holds, as a view that the next call on the cache may change."""

    def rewind(self, row: int, length: int) -> None:
        """Forget the row's tokens after the first `length`.

        Raises:
            RequestError: the row holds fewer than `length` tokens.
        """


class Runtime(Protocol):
    """A loaded engine. Calls on different caches may come from different threads."""

    @property
    def properties(self) -> Properties:
        """Sizes and limits of the engine."""

    @property
    def kernels(self) -> str:
        """Kernels that run the graph: the library's name, or the instruction set of edgekiln's, e.g. "avx512bf16"."""

    @property
    def max_verify_tokens(self) -> int:
        """Tokens of one row that `verify` may run together and give the bits that `step` gives one by one; 1 where
        there is no `verify`.
        """

    def new_cache(self, batch_size: int = 1) -> KVCache:
        """An empty cache of `batch_size` rows; memory is taken as tokens come."""

    def prefill(self, cache: KVCache, row: int, tokens: Ids) -> Logits:
        """Append `tokens`, int64[S], to one row, in chunks.

        Returns:
            float32[V], logits of the last position; valid until the next call on the cache.

        Raises:
            RequestError: no tokens, an id outside the vocabulary, or more tokens than the engine holds.
            EdgekilnError: the runtime failed.
        """

    def step(self, cache: KVCache, tokens: Ids) -> Logits:
        """Append one token, of int64[B], to each row.

        Returns:
            float32[B, V], logits of each row; valid until the next call on the cache.

        Raises:
            RequestError: a row is full.
            EdgekilnError: the runtime failed.
        """

    def verify(self, cache: KVCache, row: int, tokens: Ids) -> Logits:
        """Append `tokens`, int64[S], 1 <= S <= `max_verify_tokens`, to one row in a single run.

        Returns:
            float32[S, V], logits of every position; valid until the next call on the cache.

        Raises:
            RequestError: more tokens than `max_verify_tokens`, or as for `prefill`.
            EdgekilnError: the runtime failed.
        """

    def score(self, tokens: Ids) -> Logits:
        """Logits float32[S, V] of every position of a fresh sequence, int64[S].

        Raises:
            RequestError: as for `prefill`.
            EdgekilnError: the runtime failed, or the engine carries no scoring graph.
        """


def checked_ids(tokens: Ids, properties: Properties, held: int = 0) -> Ids:
    """`tokens` as contiguous int64[S], to follow `held` tokens of the same sequence.

    Raises:
        RequestError: there are none, one is outside the vocabulary, or they are more than the engine holds.
    """
    ids: Ids = np.ascontiguousarray(tokens, dtype=np.int64)
    if ids.ndim != 1 or ids.size == 0:
        raise RequestError(f"prompt is empty: got token ids of shape {list(ids.shape)}, give at least one token")
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= properties.vocab_size:
        bad = low if low < 0 else high
        raise RequestError(f"token id {bad} is outside the vocabulary of {properties.vocab_size}: check the tokenizer")
    if held + ids.size > properties.max_length:
        raise RequestError(too_long(held + ids.size, properties.max_length))
    return ids


def too_long(length: int, max_length: int) -> str:
    """The sentence for a sequence of `length` tokens that an engine of `max_length` cannot hold."""
    return f"prompt has {length} tokens, the engine holds {max_length}: raise --max-length at export"
