"""Prompt lookup decoding: edgekiln and the peers that have it, each with and without.

The tasks summarise a text, or repeat it with a small change, greedily and to the end token. All engines answer the same
prompt ids in rotating order. Peers draft a fixed number of tokens at a time and are measured with several; edgekiln
chooses the number itself.

Run: python -m bench.suites.speculation --help
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from bench.common.environment import environment
from bench.common.models import CONSOLE, name_of, prepare
from bench.common.options import numbers, peer_options, run_options
from bench.common.processes import EngineProcess, Ids
from bench.engines.serve import LOOKUP
from bench.engines.table import Variant, variants
from bench.report import speculation as report
from edgekiln.engine.manifest import SpecialTokens, read_manifest
from edgekiln.runtimes.text.tokenizer import Tokenizer

TEXT = Path(__file__).parents[1] / "texts" / "tide_mill.txt"
# task -> (request, beginning of the answer): small models do not repeat a text on request alone.
TASKS = {
    "summarise": ("Summarise the following text in one paragraph.\n\n{text}", ""),
    "repeat": (
        "Repeat the following text word for word, but call the baker Samuel Reed.\n\n{text}",
        "The tide mill at Hallow Creek was built in 1787 by a baker named Samuel Reed, who was tired of",
    ),
}
WITH_LOOKUP = ("edgekiln", "openvino", "llama_cpp")  # modules of bench.engines with prompt lookup


@dataclass(frozen=True)
class Setting:
    """One engine with or without prompt lookup.

    Attributes:
        label: of the variant.
        process: serves it.
        drafts: tokens drafted at a time; 0 for none, None where the engine chooses.
    """

    label: str
    process: EngineProcess
    drafts: int | None

    def answer(self, prompt: Ids, eos: list[int], most: int) -> dict[str, Any]:
        """Answer int64[P] prompt ids; see `bench.engines.serve`."""
        return self.process.ask(prompt=prompt.tolist(), eos=eos, max_tokens=most, draft_tokens=self.drafts or 0)


def settings(variant: Variant, path: Path, threads: int, drafts: list[int]) -> list[Setting]:
    """Suspended processes of a variant, without prompt lookup and with it."""
    found = []
    for arguments in ((), (LOOKUP,)):
        process = EngineProcess(replace(variant, arguments=arguments), path, threads)
        process.suspend()
        counts: list[int | None] = [0]
        if arguments:
            counts = [None] if variant.ours else list(drafts)
        found += [Setting(variant.label, process, count) for count in counts]
    return found


def interleave(
    measured: list[Setting], prompts: dict[str, Ids], eos: list[int], most: int, repeat: int
) -> list[dict[str, Any]]:
    """Answer every prompt with every setting, in rotating order; one sample per setting, task and repeat."""
    samples = []
    for turn in range(repeat):
        for task, prompt in prompts.items():
            CONSOLE.print(f"repeat {turn + 1} of {repeat}: {task}")
            first = turn % len(measured)
            for setting in measured[first:] + measured[:first]:
                setting.process.resume()
                setting.answer(prompt[:32], [], 8)
                answer = setting.answer(prompt, eos, most)
                setting.process.suspend()
                tokens = len(answer["ids"]) - 1
                if not tokens:
                    raise SystemExit(f"{setting.label} ends its answer to {task} after one token: nothing to time")
                samples.append(
                    {
                        "label": setting.label,
                        "drafts": setting.drafts,
                        "task": task,
                        "repeat": turn,
                        "decode_tokens_per_s": tokens / answer["decode_s"],
                        "tokens_per_run": tokens / answer["runs"],
                        "drafted": answer["drafted"],
                        "accepted": tokens - answer["runs"],
                        "ids": answer["ids"],
                    }
                )
    return samples


def make_prompts(engine: Path) -> tuple[dict[str, Ids], SpecialTokens, Tokenizer]:
    """Prompt ids of each task in the engine's chat template, the special tokens, and the tokenizer."""
    manifest = read_manifest(engine, verify=False)
    tokenizer = Tokenizer.from_engine(engine, manifest)
    text = TEXT.read_text(encoding="utf-8")
    prompts = {}
    for task, (request, beginning) in TASKS.items():
        chat = tokenizer.encode_chat([{"role": "user", "content": request.format(text=text)}])
        prompts[task] = np.concatenate([chat, tokenizer.encode(beginning, add_special_tokens=False)])
    return prompts, manifest.special_tokens, tokenizer


def diverged(samples: list[dict[str, Any]]) -> list[str]:
    """Answers of edgekiln that differ from its first answer without speculation, which must not change them."""
    plain: dict[tuple[str, str], list[int]] = {}
    for sample in samples:
        if sample["drafts"] == 0:
            plain.setdefault((sample["label"], sample["task"]), sample["ids"])
    found = []
    for sample in samples:
        expected = plain[sample["label"], sample["task"]]
        if sample["label"].startswith("edgekiln") and sample["ids"] != expected:
            same = int(np.argmin([a == b for a, b in zip(sample["ids"], expected, strict=False)] + [False]))
            found.append(f"{sample['label']}, {sample['task']}: ids differ from token {same} on")
    return list(dict.fromkeys(found))


@click.command()
@click.option("--model", default="smollm2-135m", show_default=True, help="Model argument of `edgekiln engine`.")
@run_options
@click.option("--drafts", type=numbers, default="2,5,10", show_default=True, help="Draft tokens of the peers.")
@click.option("--gen-tokens", type=int, default=128, show_default=True, help="Maximum tokens of an answer.")
@click.option("--repeat", type=int, default=5, show_default=True)
@peer_options
def main(
    *,
    model: str,
    out: Path,
    reuse: bool,
    drafts: list[int],
    gen_tokens: int,
    repeat: int,
    threads: int,
    only: tuple[str, ...],
    openvino: Path,
    llama: Path,
) -> None:
    """Prepare the models, measure all settings, and write OUT/NAME-speculation.json and .md."""
    chosen = [
        variant
        for variant in variants(openvino.absolute(), llama.absolute())
        if variant.module in WITH_LOOKUP and (not only or any(part in variant.label for part in only))
    ]
    _, paths = prepare(chosen, model, out, reuse)
    ours = [variant.label for variant in chosen if variant.ours]
    if not ours:
        raise click.UsageError("--only leaves no edgekiln variant, whose chat template gives the prompts: add one")
    prompts, tokens, tokenizer = make_prompts(paths[ours[0]])
    measured: list[Setting] = []
    try:
        for variant in chosen:
            measured += settings(variant, paths[variant.label], threads, drafts)
        samples = interleave(measured, prompts, tokens.eos, gen_tokens, repeat)
    finally:
        for setting in measured:
            setting.process.end()
    for sample in samples:
        sample["text"] = tokenizer.decode(sample["ids"])
    result = {
        "model": model,
        **environment(threads, "edgekiln", "onnxruntime"),
        "gen_tokens": gen_tokens,
        "repeat": repeat,
        "prompt_tokens": {task: len(prompt) for task, prompt in prompts.items()},
        "samples": samples,
    }
    name = f"{name_of(model)}-speculation"
    (out / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (out / f"{name}.md").write_text(report.markdown(result), encoding="utf-8")
    click.echo(report.markdown(result))
    CONSOLE.print(f"written to {out / name}.json and .md")
    if wrong := diverged(samples):
        raise SystemExit("speculation changed answers: " + "; ".join(wrong))


if __name__ == "__main__":
    main()
