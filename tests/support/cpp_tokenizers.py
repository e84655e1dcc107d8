"""Tokenizers with the components of the model families' tokenizer.json, trained on a few texts, and test documents."""

import json
import random
import unicodedata
from collections.abc import Callable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

VOCABULARY = 1500
_PUNCTUATION = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LLAMA3 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_PUNCTUATION}"
_QWEN = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_PUNCTUATION}"
_CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+" + _CONTRACTIONS + "?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*" + _CONTRACTIONS + "?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_DEEPSEEK = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]


def _trained(pre_tokenizer: pre_tokenizers.PreTokenizer, texts: list[str], **model: bool) -> Tokenizer:
    """A BPE tokenizer trained on the words of `pre_tokenizer`; `byte_fallback` puts the byte tokens first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    fallback = [f"<0x{byte:02X}>" for byte in range(256)] if model.get("byte_fallback") else []
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<unk>", *_SPECIAL[:2], *fallback],
        initial_alphabet=[] if fallback else pre_tokenizers.ByteLevel.alphabet(),
        limit_alphabet=600,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = []
    state["model"] |= {"unk_token": "<unk>"} | model
    return Tokenizer.from_str(json.dumps(state))


def _byte_level(*before: pre_tokenizers.PreTokenizer, use_regex: bool) -> Callable[[list[str]], Tokenizer]:
    def make(texts: list[str]) -> Tokenizer:
        last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
        tokenizer = _trained(pre_tokenizers.Sequence([*before, last]) if before else last, texts)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
        tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in _SPECIAL])
        return tokenizer

    return make


def _split(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(Regex(pattern), behavior="isolated")


def llama3(texts: list[str]) -> Tokenizer:
    tokenizer = _byte_level(_split(_LLAMA3), use_regex=False)(texts)
    tokenizer.model.ignore_merges = True
    template = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))])
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    return tokenizer


def qwen(texts: list[str]) -> Tokenizer:
    tokenizer = _byte_level(_split(_QWEN), use_regex=False)(texts)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_tokens([AddedToken("<tool_call>", normalized=False)])
    return tokenizer


def deepseek(texts: list[str]) -> Tokenizer:
    first = [_split(r"\p{N}{1,3}"), _split("[一-龥\u3040-ゟ゠-ヿ]+"), _split(_DEEPSEEK)]
    return _byte_level(*first, use_regex=False)(texts)


def _sentencepiece(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in ["<unk>", *_SPECIAL]])
    return tokenizer


def llama2(texts: list[str]) -> Tokenizer:
    tokenizer = _sentencepiece(_trained(pre_tokenizers.Metaspace(), texts, byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    state = json.loads(tokenizer.to_str())
    state["pre_tokenizer"] = None
    return Tokenizer.from_str(json.dumps(state))


def mistral(texts: list[str]) -> Tokenizer:
    tokenizer = _sentencepiece(_trained(pre_tokenizers.Metaspace(), texts, byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return tokenizer


def gemma(texts: list[str]) -> Tokenizer:
    tokenizer = _sentencepiece(_trained(pre_tokenizers.Metaspace(), texts, byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    runs = [character * count for character in ("\n", "\t", "▁") for count in range(2, 32)]
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in runs])
    return tokenizer


def odd(texts: list[str]) -> Tokenizer:
    """The options that no model family uses."""
    tokenizer = _trained(pre_tokenizers.Metaspace(), texts)  # every unknown character is one <unk>
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(Regex(r"[\t\f]+|a{2,}"), "~")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("--", behavior="removed"),
            pre_tokenizers.Split(Regex(r"[.,;]\w*"), behavior="merged_with_next"),
            pre_tokenizers.Split(Regex(r"\d+"), behavior="contiguous", invert=True),
            pre_tokenizers.Digits(individual_digits=False),
            pre_tokenizers.Metaspace(prepend_scheme="always"),
        ]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    tokenizer.add_special_tokens(["<s>"])
    tokenizer.add_tokens(
        [
            AddedToken("mask", single_word=True, normalized=False),
            AddedToken("[L]", lstrip=True, normalized=False),
            AddedToken("[R]", rstrip=True, normalized=True),
            AddedToken("[LR]", lstrip=True, rstrip=True, single_word=True, normalized=True),
            AddedToken("ﬁN", normalized=True),
            AddedToken("maskara", normalized=False),
            AddedToken("[S]", normalized=True, special=True),
        ]
    )
    return tokenizer


FAMILIES: dict[str, Callable[[list[str]], Tokenizer]] = {
    "gpt2": _byte_level(use_regex=True),
    "smollm": _byte_level(pre_tokenizers.Digits(individual_digits=True), use_regex=True),
    "llama3": llama3,
    "qwen": qwen,
    "gpt4o": _byte_level(_split(_CASED), use_regex=False),
    "deepseek": deepseek,
    "llama2": llama2,
    "mistral": mistral,
    "gemma": gemma,
    "odd": odd,
}

_EMOJI = ["👍🏽", "👩‍👩‍👧", "🏳️‍🌈", "🇯🇵🇫🇷", "1️⃣", "\U0001fae9", "☎️"]
_FRAGMENTS = [
    *[
        "'s",
        "'LL",
        "'ſ",
        "I'm",
        "--",
        "mask",
        "[L]",
        "[R]",
        "[LR]",
        "[S]",
        "ﬁN",
        "FIN",
        "fin",
        "aaa",
        "maskara",
        "mask_",
    ],
    *_SPECIAL,
    *["<tool_call>", "<unk>", "▁", "▁▁▁", "\n\n\n", "\t\t", "<0x0A>", "12345", "½³Ⅷ", "٣٤٥", "e\u0301", "한글", "한글"],
    *[
        " ",
        "  ",
        "   ",
        "\n",
        "\r\n",
        "\t",
        "\x00",
        "\x1b[0m",
        "\x85",
        "\u00a0",
        "\u2028",
        "\u200b",
        "\u3000",
        "\ufeff",
    ],
]


def _scripts() -> list[str]:
    """The letters of each script, keyed by the first word of their Unicode names."""
    by_script: dict[str, list[str]] = {}
    for code in range(0x110000):
        if (name := unicodedata.name(chr(code), "")) and unicodedata.category(chr(code))[0] in "LMN":
            by_script.setdefault(name.split()[0], []).append(chr(code))
    return ["".join(letters[:4000]) for letters in by_script.values() if len(letters) > 20]


def code_texts(characters: int) -> list[str]:
    """Lines from the source of Python's standard library, about `characters` in total."""
    source = Path(json.__file__).parent.parent
    text = "".join(path.read_text(encoding="utf-8", errors="replace") for path in sorted(source.glob("[a-h]*.py")))
    return text[:characters].splitlines(keepends=True)


def corpus(seed: int = 0) -> list[bytes]:
    """Documents of code, words in many scripts, emoji, control characters, parts of added tokens, and invalid UTF-8."""
    generator = random.Random(seed)
    lines = code_texts(400_000)
    documents = ["", " ", "\n", "a", "▁", *("".join(lines[at : at + 100]) for at in range(0, len(lines), 100))]
    for letters in _scripts():
        words = ["".join(generator.choices(letters, k=generator.randint(1, 9))) for _ in range(150)]
        documents.append(" ".join(words))
    for _ in range(300):
        parts = generator.choices(
            [*_FRAGMENTS, *_EMOJI, "word", "Zürich", "日本語", "хлеб"], k=generator.randint(1, 200)
        )
        documents.append("".join(part + generator.choice(["", "", " "]) for part in parts))
    broken = []
    for document in documents[::5]:
        content = bytearray(document.encode())
        for _ in range(len(content) // 20):
            content[generator.randrange(len(content))] = generator.randrange(256)
        broken.append(bytes(content))
    return [*(document.encode() for document in documents), *broken]
