"""One case of the suite `gpu`, printed as one line of JSON."""

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from edgekiln import runtimes
from edgekiln.benchmark import BenchmarkResult, Sample, Workload, random_prompts, run
from edgekiln.engine.directory import WEIGHTS_FILE
from edgekiln.engine.manifest import read_manifest
from edgekiln.runtimes.base import Ids, Runtime
from edgekiln.runtimes.ort.cuda import OrtCudaRuntime

GREEDY_PROMPTS, GREEDY_TOKENS, GREEDY_PROMPT_TOKENS = 10, 32, 24


def memory_mb(device: str) -> float | None:
    """Used memory of the first GPU in MB (10^6 bytes)."""
    if device == "cpu":
        return None
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
    used = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return float(used) * 2**20 / 1e6


def measure_engine(engine: Path, workload: Workload, graph: bool, device: str) -> dict[str, Any]:
    """Speed of an engine, and the bandwidth of a decode step, which reads the weights and the KV cache."""
    manifest = read_manifest(engine, verify=False)
    start = time.perf_counter()
    runtime = OrtCudaRuntime(engine, manifest, device=device, cuda_graph=graph)
    load_s = time.perf_counter() - start
    figures = run(runtime, workload)
    model = manifest.architecture
    token_bytes = sum(4 * heads * size for heads, size in zip(model.kv_heads, model.head_dims, strict=True))
    held = workload.prompt_tokens + workload.gen_tokens / 2
    read = (engine / WEIGHTS_FILE).stat().st_size + workload.batch * held * token_bytes
    steps = figures.decode_tokens_per_s.median / workload.batch
    used = memory_mb(device)  # while the engine is loaded
    return {"load_s": load_s, **figures.as_json(), "decode_read_gb_per_s": read * steps / 1e9, "used_mb": used}


def greedy(runtime: Runtime, prompt: Ids) -> tuple[list[int], list[float]]:
    """Greedy tokens, and the logit margin of each over the runner-up."""
    cache = runtime.new_cache(1)
    logits = runtime.prefill(cache, 0, prompt)
    tokens, margins = [], []
    for _ in range(GREEDY_TOKENS):
        second, first = np.sort(logits)[-2:]
        tokens.append(int(logits.argmax()))
        margins.append(float(first - second))
        logits = runtime.step(cache, np.array(tokens[-1:]))[0]
    return tokens, margins


def compare(engine: Path, reference: Path, device: str) -> dict[str, Any]:
    """Number of greedy answers equal to the reference's; position and reference margin of each divergence."""
    truth = runtimes.open(reference, kernels="onnxruntime")
    runtime = OrtCudaRuntime(engine, read_manifest(engine), device=device)
    generator = np.random.default_rng(0)
    divergences = []
    for _ in range(GREEDY_PROMPTS):
        prompt = generator.integers(0, truth.properties.vocab_size, GREEDY_PROMPT_TOKENS)
        expected, margins = greedy(truth, prompt)
        got, _ = greedy(runtime, prompt)
        differ = next((i for i, (a, b) in enumerate(zip(expected, got, strict=True)) if a != b), None)
        if differ is not None:
            divergences.append({"position": differ, "margin": margins[differ]})
    return {"equal": GREEDY_PROMPTS - len(divergences), "of": GREEDY_PROMPTS, "divergences": divergences}


def measure_torch(checkpoint: Path, workload: Workload, compiled: bool) -> dict[str, Any]:
    """Speed of transformers in float16: a plain loop over its cache, or compiled `generate` with a static cache."""
    import torch
    from transformers import AutoModelForCausalLM

    model = (
        AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float16, attn_implementation="sdpa").cuda().eval()
    )

    def loop(ids: Any) -> Sample:
        torch.cuda.synchronize()
        start = time.perf_counter()
        out = model(input_ids=ids, use_cache=True, logits_to_keep=1)
        tokens = out.logits[:, -1].argmax(-1, keepdim=True)
        tokens.cpu()
        times = [time.perf_counter()]
        for _ in range(workload.gen_tokens - 1):
            out = model(input_ids=tokens, past_key_values=out.past_key_values, use_cache=True)
            tokens = out.logits[:, -1].argmax(-1, keepdim=True)
            tokens.cpu()
            times.append(time.perf_counter())
        return Sample(times[0] - start, tuple(np.diff(times).tolist()))

    def generate(ids: Any) -> Sample:
        seconds = []
        for count in (1, workload.gen_tokens):
            start = time.perf_counter()
            model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                min_new_tokens=count,
                max_new_tokens=count,
                do_sample=False,
                cache_implementation="static",
                pad_token_id=0,
            ).cpu()
            seconds.append(time.perf_counter() - start)
        step = (seconds[1] - seconds[0]) / (workload.gen_tokens - 1)
        return Sample(seconds[0], (step,) * (workload.gen_tokens - 1))

    samples = []
    with torch.inference_mode():
        for repeat in range(workload.repeat + 1 + compiled):
            prompts = random_prompts(workload, model.config.vocab_size, np.random.default_rng(repeat))
            samples.append((generate if compiled else loop)(torch.tensor(prompts).cuda()))
    figures = BenchmarkResult.of(samples[1 + compiled :], workload).as_json()
    return {"torch": torch.__version__, **figures, "used_mb": memory_mb("cuda")}


@click.command()
@click.argument("kind", type=click.Choice(["engine", "greedy", "torch"]))
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--reference", type=click.Path(path_type=Path))
@click.option("--graph/--no-graph", default=False, help="CUDA graph; torch: compiled.")
@click.option("--batch", type=int, default=1)
@click.option("--context", type=int, default=512)
@click.option("--gen-tokens", type=int, default=128)
@click.option("--repeat", type=int, default=3)
@click.option("--device", default="cuda")
def main(
    *,
    kind: str,
    model: Path,
    reference: Path | None,
    graph: bool,
    batch: int,
    context: int,
    gen_tokens: int,
    repeat: int,
    device: str,
) -> None:
    """Measure MODEL."""
    before = memory_mb(device)
    workload = Workload(context, gen_tokens, batch, repeat)
    if kind == "greedy":
        assert reference is not None
        result = compare(model, reference, device)
    elif kind == "engine":
        result = measure_engine(model, workload, graph, device)
    else:
        result = measure_torch(model, workload, graph)
    used = result.pop("used_mb", None)
    if before is not None and used is not None:
        result["gpu_memory_mb"] = used - before
    click.echo(json.dumps(result))


if __name__ == "__main__":
    main()
