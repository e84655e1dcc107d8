"""Answers that repeat their prompt: edgekiln's speculation and the peers' prompt lookup, beside each without it.

A text is to be summarised, or repeated with a small change, greedily and to the model's own end. Everyone answers the
same prompt ids in turn, in an order that rotates. The peers draft a fixed number of tokens at a time, so each is
measured with several; edgekiln decides itself. Peers without a prompt lookup in their Python package are left out.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import speculation_tables
from candidates import Candidate, candidates
from making import CONSOLE, make_models, name_of
from options import numbers, peer_options, run_options
from processes import Ids, Process
from records import surroundings

from edgekiln.engine.manifest import SpecialTokens, read_manifest
from edgekiln.runtimes.text.tokenizer import Tokenizer

TEXT = Path(__file__).with_name("texts") / "tide_mill.txt"
# What is asked for, and how the answer is begun: small models do not repeat a text for being asked to.
TASKS = {
    "summarise": ("Summarise the following text in one paragraph.\n\n{text}", ""),
    "repeat": (
        "Repeat the following text word for word, but call the baker Samuel Reed.\n\n{text}",
        "The tide mill at Hallow Creek was built in 1787 by a baker named Samuel Reed, who was tired of",
    ),
}
# Who can look drafts up, by the worker that measures it without.
WORKERS = {
    "edgekiln_worker.py": "edgekiln_answers.py",
    "openvino_worker.py": "openvino_answers.py",
    "llama_worker.py": "llama_answers.py",
}
LOOKUP = "lookup"


@dataclass(frozen=True)
class Way:
    """One way of answering.

    Attributes:
        label: whose.
        process: which answers so.
        drafts: tokens drafted at a time; 0 for none, and None where it is decided while answering.
    """

    label: str
    process: Process
    drafts: int | None

    def answer(self, prompt: Ids, eos: list[int], most: int) -> dict[str, Any]:
        """See `workers/answers.py`."""
        return self.process.ask(prompt=prompt.tolist(), eos=eos, most=most, drafts=self.drafts or 0)


def ways(candidate: Candidate, path: Path, threads: int, drafts: list[int]) -> list[Way]:
    """Processes of a candidate, which wait stopped: without lookup, and with it."""
    found = []
    for arguments in ((), (LOOKUP,)):
        worker = replace(candidate, worker=WORKERS[candidate.worker], arguments=arguments)
        process = Process(worker, path, threads)
        process.stop()
        counts: list[int | None] = [0]
        if arguments:
            counts = [None] if candidate.ours else list(drafts)
        found += [Way(candidate.label, process, count) for count in counts]
    return found


def interleave(
    everyone: list[Way], prompts: dict[str, Ids], eos: list[int], most: int, repeat: int
) -> list[dict[str, Any]]:
    """Let everyone answer each prompt in turn; one sample a way, task and repeat."""
    samples = []
    for turn in range(repeat):
        for task, prompt in prompts.items():
            CONSOLE.print(f"repeat {turn + 1} of {repeat}: {task}")
            first = turn % len(everyone)
            for way in everyone[first:] + everyone[:first]:
                way.process.go_on()
                way.answer(prompt[:32], [], 8)
                answer = way.answer(prompt, eos, most)
                way.process.stop()
                tokens = len(answer["ids"]) - 1
                if not tokens:
                    raise SystemExit(f"{way.label} ends its answer to {task} at once: there is nothing to time")
                samples.append(
                    {
                        "label": way.label,
                        "drafts": way.drafts,
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


def prompts_and_end(engine: Path) -> tuple[dict[str, Ids], SpecialTokens, Tokenizer]:
    """Each task's prompt in the engine's chat template, which tokens are special, and the tokenizer."""
    manifest = read_manifest(engine, verify=False)
    tokenizer = Tokenizer.from_engine(engine, manifest)
    text = TEXT.read_text(encoding="utf-8")
    prompts = {}
    for task, (request, beginning) in TASKS.items():
        chat = tokenizer.encode_chat([{"role": "user", "content": request.format(text=text)}])
        prompts[task] = np.concatenate([chat, tokenizer.encode(beginning, add_special_tokens=False)])
    return prompts, manifest.tokens, tokenizer


def parted(samples: list[dict[str, Any]]) -> list[str]:
    """What of edgekiln's answers, which speculation must not change, differs from the first without it."""
    plain: dict[tuple[str, str], list[int]] = {}
    for sample in samples:
        if sample["drafts"] == 0:
            plain.setdefault((sample["label"], sample["task"]), sample["ids"])
    found = []
    for sample in samples:
        expected = plain[sample["label"], sample["task"]]
        if sample["label"].startswith("edgekiln") and sample["ids"] != expected:
            same = int(np.argmin([a == b for a, b in zip(sample["ids"], expected, strict=False)] + [False]))
            found.append(f"{sample['label']}, {sample['task']}: other ids from token {same} on")
    return list(dict.fromkeys(found))


@click.command()
@click.option("--model", default="smollm2-135m", show_default=True, help="What `edgekiln engine` takes.")
@run_options
@click.option("--drafts", type=numbers, default="2,5,10", show_default=True, help="Tokens a peer drafts at a time.")
@click.option("--gen-tokens", type=int, default=128, show_default=True, help="Of an answer at most.")
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
    """Make the models, let everyone answer, and write OUT/NAME-speculation.json and .md."""
    everyone = [
        each
        for each in candidates(openvino.absolute(), llama.absolute())
        if each.worker in WORKERS and (not only or any(part in each.label for part in only))
    ]
    _, paths = make_models(everyone, model, out, reuse)
    ours = [each.label for each in everyone if each.ours]
    if not ours:
        raise click.UsageError("--only leaves no engine of edgekiln's, whose chat template gives the prompts: add one")
    prompts, tokens, tokenizer = prompts_and_end(paths[ours[0]])
    measured: list[Way] = []
    try:
        for each in everyone:
            measured += ways(each, paths[each.label], threads, drafts)
        samples = interleave(measured, prompts, tokens.eos, gen_tokens, repeat)
    finally:
        for way in measured:
            way.process.end()
    for sample in samples:
        sample["text"] = tokenizer.decode(sample["ids"])
    record = {
        "model": model,
        **surroundings(threads, "edgekiln", "onnxruntime"),
        "gen_tokens": gen_tokens,
        "repeat": repeat,
        "prompt_tokens": {task: len(prompt) for task, prompt in prompts.items()},
        "samples": samples,
    }
    name = f"{name_of(model)}-speculation"
    (out / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (out / f"{name}.md").write_text(speculation_tables.markdown(record), encoding="utf-8")
    click.echo(speculation_tables.markdown(record))
    CONSOLE.print(f"written to {out / name}.json and .md")
    if wrong := parted(samples):
        raise SystemExit("speculation changed answers: " + "; ".join(wrong))


if __name__ == "__main__":
    main()
