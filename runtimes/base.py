"""The interface between a runtime and the generate loop: token ids in, logits out.

The sequences of a batch share one KV cache and may have different lengths; there is no padding. Prefill runs one
sequence, a decode step runs all of them.
"""

from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from edgekiln.errors import RequestError
from edgekiln.runtimes.properties import Properties

if TYPE_CHECKING:
    from edgekiln.runtimes.saved_sequence import SavedSequence

Ids = NDArray[np.int64]
Logits = NDArray[np.float32]
KernelsChoice = Literal["edgekiln", "onnxruntime"]
# What loading an engine does with the file of packed weights beside it. "write" reads it, and writes one where none is,
# which stays if `keep_packed_weights` is called; "temporary" packs into a file without a name, which goes with the
# runtime.
PackCacheUse = Literal["off", "read", "write", "temporary"]


class KVCache(Protocol):
    """Keys, values and states of a batch of sequences. Not thread-safe.

    Attributes:
        keep_snapshots: take the snapshots that `rewind` needs if the engine has states.
        can_save: whether `save` and `load` work.
        is_paged: a sequence takes memory for its own tokens; otherwise each takes as much as the longest one.
    """

    keep_snapshots: bool
    can_save: bool
    is_paged: bool

    @property
    def batch_size(self) -> int:
        """Number of sequences B."""

    @property
    def lengths(self) -> Ids:
        """int64[B], the number of tokens in the cache of each sequence. Read-only; use `rewind` to change it."""

    @property
    def capacity(self) -> int:
        """Tokens per sequence that fit before the cache grows; it grows when needed, up to the engine's max_length."""

    def tokens(self, sequence: int) -> Ids:
        """Token ids in the cache of one sequence.

        Args:
            sequence: batch index of the sequence.

        Returns:
            int64[lengths[sequence]], a view that is valid until the next call on the cache.
        """

    def rewind(self, sequence: int, length: int) -> int:
        """Drop all tokens of one sequence but its first `length`, or more of them where the cache cannot keep these.

        Layers with a window buffer hold the last tokens only (`edgekiln.runtimes.window_buffer`): at least the last 512
        tokens can always be dropped; where keys are missing that the tokens need, all tokens are dropped. A state holds
        the sequence as it is: tokens are dropped up to the latest snapshot (`edgekiln.runtimes.snapshots`), of which
        there are at the start and the end of the last prompts of several tokens, and about every 512 tokens. Other
        caches keep every length. To rewind to the current length drops nothing.

        Returns:
            The number of tokens that are left, at most `length`.

        Raises:
            RequestError: the sequence has fewer than `length` tokens.
        """

    def pause(self, sequence: int) -> None:
        """Let decode steps leave a sequence as it is, until it is rewound or appended to.

        Steps still compute it. Its logits are those of the token that it is given, or have no meaning if the engine has
        states.
        """

    def reserve(self, length: int, sparse: bool = False) -> None:
        """Make room for `length` tokens a sequence.

        Args:
            length: tokens.
            sparse: most of the room may stay unused, so that the storage must not take memory in huge pages.

        Raises:
            RequestError: `length` is more than the engine's max_length.
        """

    def swap(self, first: int, second: int) -> None:
        """Exchange two sequences."""

    def copy(self, source: int, target: int, length: int) -> int:
        """Replace a sequence by the first `length` tokens of another one, or fewer as in `rewind`.

        Returns:
            The number of tokens that it has now.

        Raises:
            RequestError: the source has fewer than `length` tokens.
        """

    def save(self, sequence: int) -> "SavedSequence":
        """A copy of a sequence in host memory.

        Raises:
            EdgekilnError: this cache cannot save sequences.
        """

    def load(self, sequence: int, saved: "SavedSequence") -> None:
        """Replace a sequence by a saved one.

        Raises:
            RequestError: it was saved by another engine, or does not fit.
            EdgekilnError: this cache cannot load sequences.
        """

    def release(self, sequence: int) -> None:
        """Drop all tokens of a sequence, and give its memory back where the storage can."""


class Runtime(Protocol):
    """A loaded engine. Thread-safe if each thread uses its own KV cache."""

    @property
    def properties(self) -> Properties:
        """Sizes and limits of the engine."""

    @property
    def kernels(self) -> str:
        """The kernels that run the graph: the name of the library, e.g. "onnxruntime", or the instruction set of
        edgekiln's kernels, e.g. "avx512bf16".
        """

    @property
    def max_verify_tokens(self) -> int:
        """Most tokens that `verify` accepts. Their logits have the bits that one `step` per token gives; 1 where the
        runtime cannot guarantee that.
        """

    @property
    def chunk(self) -> int:
        """Prompt tokens that one run takes, at most."""

    @property
    def run_sizes(self) -> tuple[int, ...]:
        """Where the rounding of a run changes with its number of tokens: from each of these numbers on, ascending.

        A token has the same keys, values and logits, bit for bit, in runs between the same two of them, and in decode
        steps of any number of sequences those of a run of one token. Empty if the runtime cannot guarantee that.
        """

    @property
    def sequence_key(self) -> str:
        """A hash of the engine and its kernels, which give a sequence the same keys, values and states."""

    def keep_packed_weights(self) -> None:
        """Let the file of packed weights that loading the engine wrote stay: its weights have been checked."""

    def new_cache(self, batch_size: int = 1) -> KVCache:
        """An empty KV cache for `batch_size` sequences. Memory is allocated when the first tokens are appended.

        Raises:
            RequestError: `batch_size` is less than 1 or more than the engine supports.
        """

    def prefill(self, cache: KVCache, sequence: int, tokens: Ids) -> Logits:
        """Append tokens to one sequence, in chunks (chunked prefill).

        Args:
            cache: made by this runtime's `new_cache`.
            sequence: batch index of the sequence.
            tokens: int64[S], S >= 1.

        Returns:
            float32[V], logits of the last position, valid until the next call on the cache.

        Raises:
            RequestError: no tokens, an id outside the vocabulary, or more tokens than the engine's max_length.
            EdgekilnError: the runtime failed.
        """

    def step(self, cache: KVCache, tokens: Ids) -> Logits:
        """Decode step: append one token to every one of the first sequences that is not paused.

        Args:
            cache: made by this runtime's `new_cache`.
            tokens: int64[N], one for each of the first N sequences; the others are not computed.

        Returns:
            float32[N, V], logits of these sequences, valid until the next call on the cache.

        Raises:
            RequestError: a sequence is at the engine's max_length.
            EdgekilnError: the runtime failed.
        """

    def verify(self, cache: KVCache, sequence: int, tokens: Ids) -> Logits:
        """Append tokens to one sequence in a single run, with logits of each: a token and the draft that follows it.

        Args:
            cache: made by this runtime's `new_cache`.
            sequence: batch index of the sequence.
            tokens: int64[S], 1 <= S <= `max_verify_tokens`.

        Returns:
            float32[S, V], logits of every position, valid until the next call on the cache.

        Raises:
            RequestError: more than `max_verify_tokens` tokens, tokens on both sides of `recompute_beyond`, or as for
                `prefill`.
            EdgekilnError: the runtime failed.
        """

    def score(self, tokens: Ids) -> Logits:
        """Logits of every position of a new sequence.

        Args:
            tokens: int64[S], S >= 1.

        Returns:
            float32[S, V], owned by the caller.

        Raises:
            RequestError: as for `prefill`.
            EdgekilnError: the runtime failed, or the engine has no scoring graph.
        """


def checked_ids(tokens: Ids, properties: Properties, length: int = 0) -> Ids:
    """Check tokens that are to be appended to a sequence of `length` tokens, and make them contiguous int64[S].

    Raises:
        RequestError: no tokens, an id outside the vocabulary, or more tokens than the engine's max_length.
    """
    ids: Ids = np.ascontiguousarray(tokens, dtype=np.int64)
    if ids.size == 0:
        raise RequestError("prompt is empty: give at least one token")
    if ids.ndim != 1:
        raise RequestError(f"token ids must be one sequence, got an array of shape {list(ids.shape)}")
    check_vocabulary(ids, properties.vocab_size)
    if length + ids.size > properties.max_length:
        raise RequestError(too_long(length + ids.size, properties))
    return ids


def check_vocabulary(ids: Ids, vocab_size: int) -> None:
    """Raise RequestError if an id is not in [0, `vocab_size`)."""
    outside = ids[(ids < 0) | (ids >= vocab_size)]
    if outside.size:
        raise RequestError(f"token id {outside[0]} is outside the vocabulary of {vocab_size}: check the tokenizer")


def too_long(length: int, properties: Properties) -> str:
    """Error message for a sequence of `length` tokens, which is more than the engine's `max_length`."""
    return f"prompt has {length} tokens, the engine holds {properties.max_length}: {properties.length_advice}"
