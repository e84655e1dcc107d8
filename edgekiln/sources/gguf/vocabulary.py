"""The vocabulary arrays of a GGUF file, checked."""

from dataclasses import dataclass
from typing import Any

from edgekiln.errors import SourceError, UnsupportedModelError
from edgekiln.sources.gguf.reader import GgufFile
from edgekiln.sources.gguf.special_tokens import NORMAL

_SENTENCEPIECE, _BYTE_LEVEL = "llama", "gpt2"
# Tokenizers of llama.cpp that are not converted.
_OTHER_MODELS = {
    "bert": "WordPiece",
    "t5": "SentencePiece unigram",
    "rwkv": "RWKV's",
    "plamo2": "PLaMo-2's",
    "gemma4": "Gemma 4's",
    "hybriddna": "HybriDNA's",
    "whitespace": "a whitespace tokenizer",
    "none": "no tokenizer",
    "no_vocab": "no tokenizer",
}


@dataclass(frozen=True)
class Vocabulary:
    """The vocabulary of a GGUF file.

    Attributes:
        sentencepiece: it is SentencePiece's BPE with byte fallback (llama.cpp's SPM); otherwise byte-level BPE.
        tokens: text of each token; all are different.
        kinds: tokenizer.ggml.token_type of each token.
        scores: SentencePiece's score of each token; None without the key.
        merges: "left right" of each merge, best first; None without the key.
    """

    sentencepiece: bool
    tokens: list[str]
    kinds: list[int]
    scores: list[float] | None
    merges: list[str] | None


def read_vocabulary(file: GgufFile) -> Vocabulary:
    """Read and check the vocabulary.

    Raises:
        SourceError: there is none, or an array is missing, too short or of another type.
        UnsupportedModelError: it is for a tokenizer that is not converted; the message names it.
    """
    model = file.get("tokenizer.ggml.model")
    if "tokenizer.ggml.tokens" not in file.metadata and model is None:
        raise SourceError(f"{file.path} carries no tokenizer: give the model's Hugging Face directory")
    if model not in (_SENTENCEPIECE, _BYTE_LEVEL):
        name = f" ({_OTHER_MODELS[model]})" if isinstance(model, str) and model in _OTHER_MODELS else ""
        raise UnsupportedModelError(
            f"{file.path} has tokenizer.ggml.model = {model!r:.60}{name}, which cannot be read "
            "from GGUF yet (can: llama, gpt2): give the model's Hugging Face directory"
        )
    tokens = _array(file, "tokens", str, 1)
    if not tokens:
        raise SourceError(f"{file.path} carries no tokenizer: give the model's Hugging Face directory")
    # llama.cpp's name for a token without text.
    tokens = [text or f"[EMPTY_{token}]" for token, text in enumerate(tokens)]
    if len(set(tokens)) < len(tokens):
        first: dict[str, int] = {}
        token = next(token for token, text in enumerate(tokens) if first.setdefault(text, token) != token)
        raise SourceError(
            f"{file.path} is damaged: its tokens {first[tokens[token]]} and {token} are both {tokens[token]!r:.60}; "
            "download or convert it again"
        )
    kinds = _array(file, "token_type", int, len(tokens)) or [NORMAL] * len(tokens)
    return Vocabulary(
        sentencepiece=model == _SENTENCEPIECE,
        tokens=tokens,
        kinds=kinds[: len(tokens)],
        scores=_array(file, "scores", (int, float), len(tokens)),
        merges=_array(file, "merges", str, 0),
    )


def _array(file: GgufFile, key: str, kind: type | tuple[type, ...], length: int) -> list[Any] | None:
    values = file.get(f"tokenizer.ggml.{key}")
    if values is None:
        return None
    if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
        raise SourceError(
            f"{file.path} is damaged: tokenizer.ggml.{key} is {values!r:.60}, it must be an array of "
            f"{'texts' if kind is str else 'numbers'}; download or convert it again"
        )
    # As in llama.cpp, a longer array is fine.
    if len(values) < length:
        raise SourceError(
            f"{file.path} is damaged: tokenizer.ggml.{key} has {len(values)} values, its vocabulary {length} tokens; "
            "download or convert it again"
        )
    return values
