"""The tokenizer of a GGUF file: transformers' conversion, with corrections where that is only approximate."""

from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, pre_tokenizers, processors
from transformers import PretrainedConfig
from transformers.integrations.ggml import GGUF_TOKENIZER_MAPPING, convert_gguf_tokenizer

from edgekiln.errors import SourceError, UnsupportedModelError
from edgekiln.sources.gguf.reader import GgufFile
from edgekiln.sources.tokenizer import TokenizerSource, finish

_CONTROL, _USER_DEFINED = 3, 4  # tokenizer.ggml.token_type
_END_TOKENS = ("eos_token_id", "eot_token_id", "eom_token_id")
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_PUNCTUATION_AND_SPACE = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# Pre-tokenization regex by tokenizer.ggml.pre, from the models' own tokenizer.json. transformers' conversion uses
# GPT-2's for all of them.
_SPLITS = {
    "llama-bpe": rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_PUNCTUATION_AND_SPACE}",
    "qwen2": rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_PUNCTUATION_AND_SPACE}",
}
_SPLITS["llama3"] = _SPLITS["llama-v3"] = _SPLITS["llama-bpe"]
_SPLITS["deepseek-r1-qwen"] = _SPLITS["stablelm2"] = _SPLITS["qwen2"]
_WHOLE_WORDS_FIRST = ("llama-bpe", "llama3", "llama-v3")
_SINGLE_DIGITS = ("smollm", "starcoder", "refact", "command-r")
_GPT2_RULE = ("default", "gpt-2", "gpt2", "olmo", "phi-2", "jina-en", "mpt")


def convert_tokenizer(file: GgufFile, config: PretrainedConfig) -> tuple[TokenizerSource, tuple[str, ...]]:
    """Convert the tokenizer of a GGUF file.

    Returns:
        The tokenizer, and notes on rules that are only approximated.

    Raises:
        SourceError: the file has no tokenizer, or a special token is outside the vocabulary.
        UnsupportedModelError: transformers cannot convert the tokenizer.
    """
    vocabulary = {
        short: file.get(f"tokenizer.{key}")
        for key, short in GGUF_TOKENIZER_MAPPING["tokenizer"].items()
        if f"tokenizer.{key}" in file.metadata
    }
    tokens = vocabulary.get("tokens")
    if not tokens:
        raise SourceError(f"{file.path} carries no tokenizer: give the model's Hugging Face directory")
    begin = file.get("tokenizer.ggml.bos_token_id")
    pad = file.get("tokenizer.ggml.padding_token_id")
    end = [token for token in (file.get(f"tokenizer.ggml.{name}") for name in _END_TOKENS) if token is not None]
    for token in (begin, pad, *end):
        if token is not None and not 0 <= token < len(tokens):
            raise SourceError(
                f"{file.path} is damaged: special token {token} is outside its {len(tokens)} tokens; download it again"
            )
    if "merges" not in vocabulary and "scores" in vocabulary:
        vocabulary["merges"] = merges_by_score(tokens, vocabulary["scores"])
    try:
        tokenizer, _ = convert_gguf_tokenizer(config.model_type, vocabulary)
    except Exception as error:
        # The converters, and the Rust tokenizer that they use, raise exceptions of any type.
        raise UnsupportedModelError(
            f"{file.path} has a tokenizer for {config.model_type} that cannot be converted ({error!r}): "
            "give the model's Hugging Face directory"
        ) from error
    _add_tokens(tokenizer, tokens, vocabulary.get("token_type") or [])
    notes = _set_pre_tokenizer(tokenizer, vocabulary, file.get("tokenizer.ggml.pre"))
    # llama.cpp's default for add_bos_token: true for SentencePiece vocabularies, false for byte-level BPE.
    if begin is not None and file.get("tokenizer.ggml.add_bos_token", vocabulary.get("tokenizer_type") == "llama"):
        first = tokens[begin]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[first, "$A"], pair=[first, "$A", first, "$B"], special_tokens=[(first, begin)]
        )
    return finish(tokenizer, file.get("tokenizer.chat_template"), begin, end, pad), notes


def merges_by_score(tokens: list[str], scores: list[float]) -> list[str]:
    """Derive the BPE merges, "left right" from best to worst, from SentencePiece's scores.

    transformers derives the same list with a linear search for each half of each token, which takes minutes for 32,000
    tokens.

    Args:
        tokens: the vocabulary.
        scores: SentencePiece's score of each token.
    """
    score = dict(zip(tokens, scores, strict=False))
    merges = []
    for token, value in score.items():
        halves = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        known = [(left, right) for left, right in halves if left in score and right in score and " " not in token]
        known.sort(key=lambda pair: (score[pair[0]], score[pair[1]]), reverse=True)
        merges += [(value, f"{left} {right}") for left, right in known]
    merges.sort(key=lambda merge: merge[0], reverse=True)
    return [text for _, text in merges]


def _add_tokens(tokenizer: Tokenizer, tokens: list[str], kinds: list[int]) -> None:
    control = [
        AddedToken(tokens[i], normalized=False, special=True) for i, kind in enumerate(kinds) if kind == _CONTROL
    ]
    tokenizer.add_special_tokens(control)
    own = [AddedToken(tokens[i], normalized=False) for i, kind in enumerate(kinds) if kind == _USER_DEFINED]
    tokenizer.add_tokens(own)


def _set_pre_tokenizer(tokenizer: Tokenizer, vocabulary: dict[str, Any], rule: str | None) -> tuple[str, ...]:
    """Set the pre-tokenizer of `tokenizer.ggml.pre`; returns a note if the rule is unknown."""
    if vocabulary.get("tokenizer_type") != "gpt2" or rule is None or rule in _GPT2_RULE:
        return ()
    if rule in _SPLITS:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_SPLITS[rule]), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        tokenizer.model.ignore_merges = rule in _WHOLE_WORDS_FIRST
        return ()
    if rule in _SINGLE_DIGITS:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        return ()
    return (f"the tokenizer's splitting rule {rule} is approximated by transformers' conversion",)
