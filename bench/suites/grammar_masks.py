"""What a grammar costs a token: choosing the tokens of a JSON document from random logits, with its schema and without.

Logits prefer the document's next token. In one of the cases they prefer an end-of-sequence token, which is not allowed.
The engine's own vocabulary is measured, and a copy of it with pairs of its words up to the size of Qwen's.

Run: python -m bench.suites.grammar_masks --help
"""

import json
import time
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as FastTokenizer

from edgekiln import runtimes
from edgekiln.engine.manifest import SpecialTokens, read_manifest
from edgekiln.runtimes.grammar.compile import compile_grammar
from edgekiln.runtimes.grammar.grammar import Grammar
from edgekiln.runtimes.sampling.sampler import Sampler, SamplingOptions
from edgekiln.runtimes.text.tokenizer import Tokenizer

LARGE = 151_936  # tokens of Qwen3
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "address": {
            "type": "object",
            "properties": {"street": {"type": "string"}, "zip": {"type": "string", "pattern": "^[0-9]{5}$"}},
            "required": ["street", "zip"],
        },
        "balance": {"type": "number"},
    },
    "required": ["name", "tags", "address", "balance"],
}
STORY = {
    "type": "object",
    "properties": {"story": {"type": "string", "minLength": 400, "maxLength": 2000}},
    "required": ["story"],
}
DOCUMENT = {
    "name": "Ada Lovelace of London",
    "tags": ["mathematician", "poet's daughter", "early programmer of engines"],
    "address": {"street": "12 St James's Square", "zip": "12345"},
    "balance": -12500.75,
}


def enlarged(directory: Path, special_tokens: SpecialTokens) -> Tokenizer:
    """The tokenizer of an engine directory with pairs of its words added, which no text is encoded as."""
    state = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = state["model"]["vocab"]
    generator = np.random.default_rng(0)
    words = [word for word in vocabulary if word.isascii()]
    while len(vocabulary) < LARGE:
        first, second = generator.integers(len(words), size=2)
        if len(pair := words[first] + words[second].lstrip("Ġ")) < 16:
            vocabulary.setdefault(pair, len(vocabulary))
    return Tokenizer(FastTokenizer.from_str(json.dumps(state)), special_tokens)


def choices(
    tokenizer: Tokenizer, grammar: Grammar | None, options: SamplingOptions, agree: bool, repeat: int
) -> NDArray[np.float64]:
    """CPU seconds of each choice of the document's tokens."""
    ids = tokenizer.encode(json.dumps(DOCUMENT), add_special_tokens=False).tolist()
    generator = np.random.default_rng(0)
    seconds = []
    for _ in range(repeat):
        sampler = Sampler(options, constraint=grammar)
        for token in ids:
            logits = generator.normal(0, 2, tokenizer.size).astype(np.float32)
            logits[token] = 30
            if not agree and grammar is not None:
                logits[max(tokenizer.eos_ids)] = 31
            start = time.process_time()
            chosen = sampler.sample(0, logits).token
            seconds.append(time.process_time() - start)
            assert chosen == token
    return np.array(seconds)


def print_answers(engine: Path, tokenizer: Tokenizer, repeat: int, tokens: int = 110) -> None:
    """Print what choosing a token costs in answers, where a decode step has emptied the caches of the processor."""
    runtime = runtimes.open(engine, verify=False)
    grammar = compile_grammar(tokenizer, "json_schema", STORY)
    for name, constraint in (("without", None), *[("with a mask", grammar)] * repeat):
        cache, sampler = runtime.new_cache(), Sampler(SamplingOptions(), constraint=constraint)
        logits = runtime.prefill(cache, 0, tokenizer.encode("Write a JSON object with a story. "))
        chosen, steps = [], []
        for _ in range(tokens):
            start = time.thread_time(), time.perf_counter()
            token = sampler.sample(0, logits).token
            chosen.append(time.thread_time() - start[0])
            logits = runtime.step(cache, np.array([token]))[0]
            steps.append(time.perf_counter() - start[1])
        print(f"answer {name}: {np.mean(chosen) * 1e6:.0f} µs a choice, {np.median(steps) * 1e3:.1f} ms a step")


@click.command()
@click.argument("engine", type=click.Path(exists=True, path_type=Path))
@click.option("--repeat", default=10, show_default=True, help="Times to choose the document's tokens.")
def main(engine: Path, repeat: int) -> None:
    """Print microseconds of CPU time a token with the tokenizer of ENGINE, which has a byte-level BPE."""
    manifest = read_manifest(engine, verify=False)
    print_answers(engine, Tokenizer.from_engine(engine, manifest), repeat=3)
    print("| vocabulary | choice | without | with a mask | added | p95 | largest |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for tokenizer in (Tokenizer.from_engine(engine, manifest), enlarged(engine, manifest.special_tokens)):
        start = time.perf_counter()
        grammar = compile_grammar(tokenizer, "json_schema", SCHEMA)
        first = time.perf_counter() - start
        for name, options, agree in (
            ("greedy, allowed", SamplingOptions(), True),
            ("greedy, another preferred", SamplingOptions(), False),
            ("temperature 0.7, top_k 40", SamplingOptions(temperature=0.7, top_k=40, seed=0), True),
        ):
            without = choices(tokenizer, None, options, agree, repeat) * 1e6
            masked = choices(tokenizer, grammar, options, agree, repeat) * 1e6
            print(
                f"| {tokenizer.size:,} | {name} | {without.mean():.0f} | {masked.mean():.0f} | "
                f"{masked.mean() - without.mean():+.0f} | {np.percentile(masked, 95):.0f} | {masked.max():.0f} |"
            )
        print(f"first grammar of {tokenizer.size:,} tokens: {first * 1e3:.0f} ms")


if __name__ == "__main__":
    main()
