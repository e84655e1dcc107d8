"""Check whether calibration data is representative of the texts that a model will read."""

import unicodedata
from collections import Counter

import numpy as np

from edgekiln.calib.data.loader import Windows
from edgekiln.runtimes.text.tokenizer import Tokenizer

_FEW_TOKENS = 4096
# Length of a phrase in tokens, and the share of repeated phrases that is accepted. The share is 2% in an encyclopedia
# and 10% in dialogues with the same opening.
_PHRASE = 16
_REPEATED = 0.3
# The model knows a script if this share of its vocabulary is written in it. Data is in one script if this share is.
_KNOWN = 0.1
_ONE_SCRIPT = 0.99
_SAMPLED_TOKENS = 4000


def unrepresentative(windows: Windows, tokenizer: Tokenizer, vocab_size: int) -> list[str]:
    """Warn of too little, repetitive or one-sided calibration data.

    Args:
        windows: int64 [windows, length] calibration tokens.
        tokenizer: the model's.
        vocab_size: the model's.

    Returns:
        One sentence per problem; empty without problems.
    """
    found = []
    if windows.size < _FEW_TOKENS:
        found.append(f"the calibration data has {windows.size} tokens, few for good scales: give {_FEW_TOKENS} or more")
    repeated = _repeated(windows)
    if repeated > _REPEATED:
        found.append(f"{repeated:.0%} of the calibration data repeats itself: give more varied text")
    data, known = _scripts(tokenizer.decode(windows.ravel())), _vocabulary_scripts(tokenizer, vocab_size)
    for script, count in data.most_common(1):
        missing = [other for other, share in known.items() if share > _KNOWN and other != script]
        if count > _ONE_SCRIPT * data.total() and missing:
            found.append(
                f"the calibration data is all in {script} letters and the model also knows {', '.join(missing)}: "
                "add text of each language that it will read"
            )
    return found


def _repeated(windows: Windows) -> float:
    """Share of the phrases, one starting at each token, that occur earlier in the data."""
    tokens = windows.ravel()
    if len(tokens) < _PHRASE:
        return 0.0
    # A hash by integer overflow: different phrases have different sums, except by chance.
    factors = np.random.default_rng(0).integers(1, 2**62, _PHRASE) | 1
    phrases = np.lib.stride_tricks.sliding_window_view(tokens, _PHRASE) @ factors
    return 1 - len(np.unique(phrases)) / len(phrases)


def _scripts(text: str) -> Counter[str]:
    """Count letters by script, the first word of their Unicode name (LATIN, CYRILLIC, CJK, …)."""
    counts: Counter[str] = Counter()
    for character, count in Counter(text).items():
        if character.isalpha():
            counts[unicodedata.name(character, "UNKNOWN").split()[0]] += count
    return counts


def _vocabulary_scripts(tokenizer: Tokenizer, vocab_size: int) -> dict[str, float]:
    """Share of the vocabulary in each script, estimated from evenly spaced tokens."""
    ids = np.unique(np.linspace(0, vocab_size - 1, min(vocab_size, _SAMPLED_TOKENS)).astype(int))
    counts: Counter[str] = Counter()
    for token in ids:
        scripts = _scripts(tokenizer.decode([int(token)]))
        counts.update(script for script, _ in scripts.most_common(1))
    return {script: count / max(1, counts.total()) for script, count in counts.items()}
