"""The rules of tokenizer.ggml.pre: how byte-level BPE splits text, and what llama.cpp assumes where keys are absent.

The names, and the rules that they share, are those of llama.cpp's llama-vocab.cpp. The expressions are those of the
models' own tokenizer.json, which llama.cpp's restate for its regex engine. They are applied one after the other, each
to the pieces that the earlier ones left.
"""

from dataclasses import dataclass

from tokenizers import Regex, pre_tokenizers

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_ENDING = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_PUNCTUATION_AND_SPACE = rf" ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_ENDING}"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


def _cased(suffix: str, digits: str) -> str:
    """Words that begin with upper-case or end with lower-case letters, each followed by `suffix`; and `digits`."""
    start = r"[^\r\n\p{L}\p{N}]?"
    words = rf"{start}{_UPPER}*{_LOWER}+{suffix}|{start}{_UPPER}+{_LOWER}*{suffix}"
    return rf"{words}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_ENDING}"


_GPT2 = (r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",)
_LLAMA3 = (rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}{{1,3}}|{_PUNCTUATION_AND_SPACE}",)
_QWEN2 = (rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}|{_PUNCTUATION_AND_SPACE}",)
_GPT4O = (_cased(rf"{_CONTRACTIONS}?", r"\p{N}{1,3}"),)
_SINGLE_DIGITS = (r"\p{N}", *_GPT2)
_DEEPSEEK3 = (
    r"\p{N}{1,3}",
    r"[一-龥぀-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"
    + _ENDING,
)
_BLOOM = (r" ?[^(\s|.,!?…。，、।۔،)]+",)


@dataclass(frozen=True)
class PreTokenizer:
    """A rule of tokenizer.ggml.pre.

    Attributes:
        expressions: regular expressions whose matches, and the text between them, become pieces.
        add_bos: bos is put before a text unless tokenizer.ggml.add_bos_token says otherwise.
        ignore_merges: a piece that is a token becomes that token without merging.
    """

    expressions: tuple[str, ...]
    add_bos: bool = False
    ignore_merges: bool = False

    def build(self) -> pre_tokenizers.PreTokenizer:
        """The rule as a pre-tokenizer of the `tokenizers` library, for byte-level BPE."""
        splits = [pre_tokenizers.Split(Regex(expression), behavior="isolated") for expression in self.expressions]
        return pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _rules(names: str, expressions: tuple[str, ...], **flags: bool) -> dict[str, PreTokenizer]:
    return dict.fromkeys(names.split(), PreTokenizer(expressions, **flags))


# llama.cpp's rule for files without tokenizer.ggml.pre.
DEFAULT = "default"
PRE_TOKENIZERS = {
    DEFAULT: PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", *_GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")),
    **_rules(
        "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
        _LLAMA3,
        add_bos=True,
        ignore_merges=True,
    ),
    **_rules("dbrx smaug-bpe chatglm-bpe glm4", _LLAMA3),
    **_rules("tekken", (_cased("", r"\p{N}"),), add_bos=True, ignore_merges=True),
    **_rules("gpt-4o llama4 kanana2 talkie minimax-m2", _GPT4O),
    **_rules("tiny_aya cohere2moe", (r"\d{1,3}(?=(?:\d{3})*\b)", *_GPT4O)),
    **_rules(
        "gpt-2 phi-2 jina-es jina-de jina-v2-es jina-v2-de gigachat a.x-4.0 mellum mpt olmo jais trillion exaone4 "
        "granite-docling",
        _GPT2,
    ),
    **_rules("starcoder refact command-r smollm codeshell exaone minerva-7b mellum2", _SINGLE_DIGITS),
    **_rules("qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2", _QWEN2),
    **_rules(
        "qwen35",
        (
            rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|"
            + _ENDING,
        ),
    ),
    **_rules("deepseek-v3 hunyuan-dense joyai-llm hy_v4", _DEEPSEEK3),
    **_rules("deepseek-coder", (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[一-龥ࠀ-一가-퟿]+", r"\p{N}")),
    **_rules("falcon", (r"[\p{P}\$\+<=>\^~\|`]+", *_GPT2, r"[0-9][0-9][0-9]")),
    **_rules("bloom poro-chat gpt3-finnish", _BLOOM),
    **_rules("viking", (*_BLOOM, r"\p{N}")),
    **_rules(
        "bailingmoe bailingmoe2 llada-moe",
        (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",),
    ),
    **_rules("seed-coder", (rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_ENDING}",)),
    **_rules(
        "exaone-moe",
        (
            rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}|"
            r" ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+",
        ),
    ),
    **_rules(
        "minicpm5",
        (r"\p{N}{1,3}", rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}+|{_PUNCTUATION_AND_SPACE}"),
        ignore_merges=True,
    ),
}
