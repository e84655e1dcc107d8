"""The tokenizer of a GGUF file, as llama.cpp reads it.

The vocabulary is SentencePiece's BPE (`tokenizer.ggml.model` llama) or byte-level BPE (gpt2). Both become a BPE of the
`tokenizers` library; SentencePiece's scores become its merges.
"""

import math
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

from edgekiln.errors import EdgekilnError, SourceError, UnsupportedModelError, one_line
from edgekiln.sources.gguf.pre_tokenizers import DEFAULT, PRE_TOKENIZERS, PreTokenizer
from edgekiln.sources.gguf.reader import GgufFile
from edgekiln.sources.gguf.special_tokens import (
    BYTE,
    CONTROL,
    UNKNOWN,
    USER_DEFINED,
    GgufSpecialTokens,
    read_special_tokens,
)
from edgekiln.sources.gguf.vocabulary import Vocabulary, read_vocabulary
from edgekiln.sources.tokenizer import TokenizerSource, finish

_PREFIX = "tokenizer.ggml."
_TEMPLATE, _TEMPLATES = "tokenizer.chat_template", "tokenizer.chat_templates"
_SPACE = "▁"
# Keys "tokenizer.*" that are read here or in the modules above, or that have no effect on the tokenizers that are read.
_TOKEN_IDS = (
    "bos eos eot eom unknown seperator padding cls mask prefix suffix middle "
    "fim_pre fim_suf fim_mid fim_pad fim_rep fim_sep"
)
_KNOWN = {
    *(f"{_PREFIX}{name}_token_id" for name in _TOKEN_IDS.split()),
    *(f"{_PREFIX}{name}" for name in ("model", "pre", "tokens", "token_type", "scores", "merges", "eos_token_ids")),
    *(f"{_PREFIX}add_{name}" for name in ("bos_token", "eos_token", "space_prefix")),
    # Of WordPiece, SentencePiece unigram and RWKV only; token_type_count is BERT's.
    *(f"{_PREFIX}{name}" for name in ("add_sep_token", "token_type_count", "remove_extra_whitespaces")),
    *(f"{_PREFIX}{name}" for name in ("precompiled_charsmap", "normalizer.lowercase", "normalizer.strip_accents")),
    "tokenizer.rwkv.world",
    # A copy of the Hugging Face tokenizer, which llama.cpp does not read.
    "tokenizer.huggingface.json",
    _TEMPLATE,
    _TEMPLATES,
}
# llama.cpp: in files whose general.name contains one of these, special tokens swallow the spaces after them.
_STRIPPED_NAMES, _NOT_STRIPPED = ("phi-3", "phi3"), ("<unk>", "<s>", "<|endoftext|>")


def convert_tokenizer(file: GgufFile) -> tuple[TokenizerSource, tuple[str, ...]]:
    """Convert the tokenizer of a GGUF file.

    Returns:
        The tokenizer, and notes for the build report.

    Raises:
        SourceError: the file has no tokenizer, or its arrays or ids contradict each other.
        UnsupportedModelError: a tokenizer or a key that cannot be converted; the message names it.
    """
    _check_keys(file)
    vocabulary = read_vocabulary(file)
    special = read_special_tokens(file, vocabulary.tokens, vocabulary.kinds, vocabulary.sentencepiece)
    rule = None if vocabulary.sentencepiece else _pre_tokenizer(file)
    try:
        tokenizer = _sentencepiece(file, vocabulary, special) if rule is None else _byte_level(file, vocabulary, rule)
        _add_tokens(tokenizer, vocabulary, _strips(file))
        _add_ends(file, tokenizer, vocabulary, special, rule)
    except EdgekilnError:
        raise
    except Exception as error:
        # The Rust tokenizer raises bare Exceptions, for instance on a merge of unknown tokens.
        raise SourceError(
            f"{file.path} has a vocabulary that makes no tokenizer ({one_line(error)}): download or convert it again"
        ) from error
    notes: tuple[str, ...] = ()
    if rule is not None and f"{_PREFIX}pre" not in file.metadata:
        notes = (f"{_PREFIX}pre is missing: text is split by llama.cpp's default rule, which may not be the model's",)
    source = finish(tokenizer, _templates(file), special.bos, special.ends, special.pad, special.variables)
    return source, notes


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


def _check_keys(file: GgufFile) -> None:
    for key, field in file.metadata.items():
        known = key in _KNOWN or key.startswith(f"{_TEMPLATE}.") or not key.startswith("tokenizer.")
        if not known and field.value != []:
            raise UnsupportedModelError(
                f"{file.path} sets {key} = {field.value!r:.60}, which cannot be read from GGUF yet: "
                "give the model's Hugging Face directory"
            )


def _pre_tokenizer(file: GgufFile) -> PreTokenizer:
    name = file.get(f"{_PREFIX}pre", DEFAULT) or DEFAULT
    rule = PRE_TOKENIZERS.get(name) if isinstance(name, str) else None
    if rule is None:
        raise UnsupportedModelError(
            f"{file.path} has tokenizer.ggml.pre = {name!r:.60}, a rule of splitting text that cannot be read from "
            "GGUF yet: give the model's Hugging Face directory"
        )
    return rule


def _byte_level(file: GgufFile, vocabulary: Vocabulary, rule: PreTokenizer) -> Tokenizer:
    if vocabulary.merges is None:
        raise SourceError(f"{file.path} lacks tokenizer.ggml.merges: download or convert it again")
    tokenizer = Tokenizer(
        models.BPE(
            {text: token for token, text in enumerate(vocabulary.tokens)},
            _pairs(vocabulary.merges),
            ignore_merges=rule.ignore_merges,
        )
    )
    tokenizer.pre_tokenizer = rule.build()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(file: GgufFile, vocabulary: Vocabulary, special: GgufSpecialTokens) -> Tokenizer:
    """SentencePiece's BPE: pairs whose text has the best score are merged first, unknown characters become bytes."""
    unknown = None if special.unknown is None else vocabulary.tokens[special.unknown]
    tokenizer = Tokenizer(
        models.BPE(
            {text: token for token, text in enumerate(vocabulary.tokens)},
            _pairs(_sentencepiece_merges(file, vocabulary)),
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    prefix = _flag(file, "add_space_prefix", True)
    tokenizer.normalizer = normalizers.Sequence(
        [*([normalizers.Prepend(_SPACE)] if prefix else []), normalizers.Replace(" ", _SPACE)]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(_SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            *([decoders.Strip(" ", 1, 0)] if prefix else []),
        ]
    )
    return tokenizer


def _sentencepiece_merges(file: GgufFile, vocabulary: Vocabulary) -> list[str]:
    scores = vocabulary.scores
    if scores is None:
        raise SourceError(f"{file.path} lacks tokenizer.ggml.scores: download or convert it again")
    if not all(math.isfinite(score) for score in scores):
        raise SourceError(
            f"{file.path} is damaged: tokenizer.ggml.scores has values that are no numbers; download it again"
        )
    # No text merges into a control token.
    pieces = [token for token, kind in enumerate(vocabulary.kinds) if kind not in (CONTROL, UNKNOWN, BYTE)]
    if vocabulary.merges and len({scores[token] for token in pieces}) == 1:
        # llama.cpp's converter writes one score for all tokens of a tokenizer that has merges instead.
        return vocabulary.merges
    return merges_by_score([vocabulary.tokens[token] for token in pieces], [scores[token] for token in pieces])


def _pairs(merges: list[str]) -> list[tuple[str, str]]:
    # The first space separates, as in llama.cpp; the left token has at least one character.
    cuts = [(merge, merge.find(" ", 1)) for merge in merges]
    return [(merge[:cut], merge[cut + 1 :]) for merge, cut in cuts if cut > 0]


def _strips(file: GgufFile) -> bool:
    name = file.get("general.name", "")
    return isinstance(name, str) and any(part in name.lower() for part in _STRIPPED_NAMES)


def _add_tokens(tokenizer: Tokenizer, vocabulary: Vocabulary, strips: bool) -> None:
    def added(kinds: tuple[int, ...], special: bool) -> list[AddedToken]:
        texts = [text for text, kind in zip(vocabulary.tokens, vocabulary.kinds, strict=True) if kind in kinds]
        return [
            AddedToken(text, normalized=False, special=special, rstrip=strips and text not in _NOT_STRIPPED)
            for text in texts
        ]

    tokenizer.add_special_tokens(added((CONTROL, UNKNOWN), True))
    tokenizer.add_tokens(added((USER_DEFINED,), False))


def _add_ends(
    file: GgufFile,
    tokenizer: Tokenizer,
    vocabulary: Vocabulary,
    special: GgufSpecialTokens,
    rule: PreTokenizer | None,
) -> None:
    """Put bos before and eos after a text, where the keys or llama.cpp's defaults say so."""
    ends = []
    for name, token, default in (("bos", special.bos, rule is None or rule.add_bos), ("eos", special.eos, False)):
        adds = _flag(file, f"add_{name}_token", default)
        if adds and token is None:
            raise SourceError(
                f"{file.path} gives no tokenizer.ggml.{name}_token_id, but its tokenizer adds this token to every "
                "text: convert the model again"
            )
        ends.append([(vocabulary.tokens[token], token)] if adds and token is not None else [])
    before, after = ends
    if not before and not after:
        return
    texts = [[text for text, _ in end] for end in ends]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[*texts[0], "$A", *texts[1]],
        pair=[*texts[0], "$A", *texts[0], "$B", *texts[1]],
        special_tokens=list(dict.fromkeys([*before, *after])),
    )


def _flag(file: GgufFile, name: str, default: bool) -> bool:
    value = file.get(f"{_PREFIX}{name}", default)
    if not isinstance(value, bool):
        raise SourceError(f"{file.path} is damaged: {_PREFIX}{name} is {value!r:.60}, no truth value; convert it again")
    return value


def _templates(file: GgufFile) -> str | dict[str, str] | None:
    """The chat template; if there are named ones, all by name, as transformers gives them."""
    templates: dict[str, Any] = {
        key.removeprefix(f"{_TEMPLATE}."): field.value
        for key, field in file.metadata.items()
        if key.startswith(f"{_TEMPLATE}.")
    }
    default = file.get(_TEMPLATE)
    if default is not None:
        templates = {"default": default, **templates}
    for name, text in templates.items():
        if not isinstance(text, str):
            raise SourceError(
                f"{file.path} is damaged: its chat template {name!r} is {text!r:.60}, no text; convert it again"
            )
    return default if set(templates) <= {"default"} else templates
