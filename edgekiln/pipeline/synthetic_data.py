"""Calibration text that the model writes itself, so that none has to be fetched or shipped.

Each window begins with a random token and goes on by sampling from the model: what it says with some probability is
what it will compute on. The same idea trains quantized models without data in LLM-QAT (Liu et al. 2023).
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edgekiln import runtimes
from edgekiln.calib.data import disk_cache as cache
from edgekiln.calib.data.loader import Windows
from edgekiln.calib.data.options import DataOptions
from edgekiln.engine.manifest import read_manifest
from edgekiln.runtimes.base import Properties
from edgekiln.runtimes.generate.generate import GenerateOptions, generate
from edgekiln.runtimes.sampling.sampler import SamplingOptions
from edgekiln.runtimes.text.tokenizer import Tokenizer
from edgekiln.sources.base import ModelSource

# Bytes of keys and values that the windows written at once may take.
_CACHE_BYTES = 1 << 30


def self_text(source: ModelSource, options: DataOptions, progress: Callable[[str, float], None]) -> Windows:
    """int64 [samples, length] tokens that `source` writes; kept in the user's cache for the next time.

    An engine in 8 bits, rounded to nearest, writes them: it is built in seconds and says what the model would say.

    Raises:
        UnsupportedModelError: the model cannot be made an engine.
        SourceError: a weight is damaged.
    """
    name = f"text-{cache.fingerprint(source)}-{options.count}x{options.length}-{options.seed}.npy"
    known = cache.load(name)
    if known is not None and known.shape == (options.count, options.length):
        return known
    # Building needs calibration and calibration needs a build, of a kind that needs none.
    from edgekiln.calib.presets import UNCALIBRATED
    from edgekiln.pipeline.build import build_engine
    from edgekiln.pipeline.options import BuildOptions

    with tempfile.TemporaryDirectory(prefix="edgekiln-") as directory:
        engine = Path(directory) / "engine"
        build = BuildOptions(recipe=UNCALIBRATED, max_length=options.length)
        build_engine(source, engine, build, lambda _step, done: progress("preparing to write text", done))
        windows = _write(engine, options, lambda done: progress("writing calibration text", done))
    cache.store(name, windows)
    return windows


def _write(engine: Path, options: DataOptions, progress: Callable[[float], None]) -> Windows:
    runtime = runtimes.open(engine, verify=False)
    tokenizer = Tokenizer.from_engine(engine, read_manifest(engine, verify=False))
    rng = np.random.default_rng(options.seed)
    words = np.array([token for token in range(runtime.properties.vocab_size) if tokenizer.has_text(token)])
    first = rng.choice(words, options.count)
    lead = [tokenizer.tokens.bos] if tokenizer.tokens.add_bos and tokenizer.tokens.bos is not None else []
    rows = [[*lead, int(token)][: options.length - 1] for token in first]
    together = _rows_at_once(runtime.properties, options)
    total, done = options.count * options.length, 0
    for start in range(0, options.count, together):
        part = rows[start : start + together]
        wanted = options.length - len(part[0])
        generation = GenerateOptions(wanted, SamplingOptions(temperature=1.0, seed=options.seed + start), (), True)
        for token in generate(runtime, tokenizer, [np.array(row) for row in part], generation):
            part[token.row].append(token.id)
            done += 1
            if done % (together * 4) == 0:
                progress(done / total)
    return np.array(rows, dtype=np.int64)


def _rows_at_once(properties: Properties, options: DataOptions) -> int:
    pairs = zip(properties.kv_heads, properties.head_dims, strict=True)
    token_bytes = sum(2 * 4 * heads * size for heads, size in pairs)
    return max(1, min(options.count, _CACHE_BYTES // (token_bytes * options.length)))
