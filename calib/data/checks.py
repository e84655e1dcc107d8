"""Signs that calibration data does not stand for what a model will read."""

import unicodedata
from collections import Counter

import numpy as np

from edgekiln.calib.data.loader import Windows
from edgekiln.runtimes.text.tokenizer import Tokenizer

_FEW_TOKENS = 4096
# Tokens of a phrase whose return counts as a repetition, and the share of such phrases that a text may have: it is 2%
# in an encyclopedia, 10% in dialogues that share their opening.
_PHRASE = 16
_REPEATED = 0.3
# A script that so much of the vocabulary, but not of the data, is written in is missed.
_KNOWN = 0.1
_ONE_SCRIPT = 0.99
_SAMPLED_TOKENS = 4000


def unrepresentative(windows: Windows, tokenizer: Tokenizer, vocab_size: int) -> list[str]:
    """A sentence for each thing that makes int64 [windows, length] a poor sample; empty where nothing does."""
    found = []
    if windows.size < _FEW_TOKENS:
        found.append(f"the calibration data has {windows.size} tokens, few for good scales: give {_FEW_TOKENS} or more")
    repeated = _repeated(windows)
    if repeated > _REPEATED:
        found.append(f"{repeated:.0%} of the calibration data repeats itself: give more varied text")
    data, known = _scripts(tokenizer.decode(windows.ravel())), _vocabulary_scripts(tokenizer, vocab_size)
    for script, count in data.most_common(1):
        missed = [other for other, share in known.items() if share > _KNOWN and other != script]
        if count > _ONE_SCRIPT * data.total() and missed:
            found.append(
                f"the calibration data is all in {script} letters and the model also knows {', '.join(missed)}: "
                "add text of each language that it will read"
            )
    return found


def _repeated(windows: Windows) -> float:
    """Share of the phrases, one beginning at each token, that came before."""
    tokens = windows.ravel()
    if len(tokens) < _PHRASE:
        return 0.0
    # Whole-number overflow makes this a hash: phrases that differ have, but for luck, different sums.
    factors = np.random.default_rng(0).integers(1, 2**62, _PHRASE) | 1
    phrases = np.lib.stride_tricks.sliding_window_view(tokens, _PHRASE) @ factors
    return 1 - len(np.unique(phrases)) / len(phrases)


def _scripts(text: str) -> Counter[str]:
    """Letters by script, which is the first word of their Unicode name (LATIN, CYRILLIC, CJK, …)."""
    counts: Counter[str] = Counter()
    for character, count in Counter(text).items():
        if character.isalpha():
            counts[unicodedata.name(character, "UNKNOWN").split()[0]] += count
    return counts


def _vocabulary_scripts(tokenizer: Tokenizer, vocab_size: int) -> dict[str, float]:
    """Share of the vocabulary in each script, judged by an even sample of it."""
    ids = np.unique(np.linspace(0, vocab_size - 1, min(vocab_size, _SAMPLED_TOKENS)).astype(int))
    counts: Counter[str] = Counter()
    for token in ids:
        scripts = _scripts(tokenizer.decode([int(token)]))
        counts.update(script for script, _ in scripts.most_common(1))
    return {script: count / max(1, counts.total()) for script, count in counts.items()}
