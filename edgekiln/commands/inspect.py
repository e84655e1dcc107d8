"""`edgekiln inspect`: the contents of an engine directory."""

import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from edgekiln.calib.tensorrt.inspect import plan_facts
from edgekiln.commands._options.common import engine_argument, json_option, verbose_option
from edgekiln.commands._output import heading, print_json
from edgekiln.engine.directory import QUANTIZATION_FILE, REPORT_FILE, WEIGHTS_FILE
from edgekiln.engine.engines import entry_of
from edgekiln.engine.manifest import EngineManifest, read_manifest
from edgekiln.errors import EngineError, RequestError
from edgekiln.targets import DEFAULT_TARGET
from edgekiln.units import size_text

# Of Python, ONNX Runtime and activations, measured with models of 135M parameters on the CPU.
_PROGRAM_MB = 150


@click.command("inspect", short_help="Show the contents of an engine.")
@engine_argument
@click.option(
    "--context",
    type=click.IntRange(min=1),
    metavar="N",
    help="Tell the memory that a sequence of N tokens needs [the most that the engine holds].",
)
@click.option("--layers", is_flag=True, help="Also show a table of how each layer is quantized.")
@json_option
@verbose_option
def command(*, engine: Path, context: int | None, layers: bool, as_json: bool) -> None:
    """Show the model, sizes, memory and ops of the graphs of ENGINE; with --layers, its quantization."""
    manifest = read_manifest(engine)
    entry = entry_of(engine)
    facts = manifest.model_dump(exclude={"files", "io"})
    facts["built"] = datetime.fromtimestamp(entry.built, UTC).isoformat(timespec="seconds")
    facts["bytes"] = entry.size
    facts["packed_bytes"] = entry.packed_size
    facts["memory"] = _memory(engine, manifest, context)
    facts["sizes"] = {name: (engine / name).stat().st_size for name in sorted(manifest.files)}
    graphs = {role: name for role, name in manifest.graphs.items() if name.endswith(".onnx")}
    facts["ops"] = {role: _ops(engine / name) for role, name in graphs.items()}
    facts["plan"] = plan_facts(engine, manifest) if manifest.tensorrt else None
    facts["layers"] = _read(engine, QUANTIZATION_FILE).get("layers", {})
    facts["report"] = _read(engine, REPORT_FILE)
    if as_json:
        print_json(facts)
    else:
        _show(engine, manifest, facts, layers)


def _memory(engine: Path, manifest: EngineManifest, context: int | None) -> dict[str, int]:
    """Bytes that one sequence of `context` tokens needs: weights, keys and values, and states."""
    from edgekiln.runtimes.cache_bytes import sequence_bytes, state_bytes

    holds = manifest.architecture.max_length
    if context is not None and context > holds:
        raise RequestError(f"--context is {context} tokens, the engine holds {holds}: give at most that")
    tokens = context or holds
    in_plan = manifest.tensorrt is not None and not manifest.tensorrt.weight_stripped
    weights = engine / (manifest.graphs["plan"] if in_plan else WEIGHTS_FILE)
    return {
        "context": tokens,
        "weights": weights.stat().st_size if weights.is_file() else 0,
        # An in-place cache has room for all tokens from the start.
        "kv_cache": sequence_bytes(manifest, holds if manifest.kv_cache.layout == "in-place" else tokens),
        "states": 2 * state_bytes(manifest),
    }


def _read(engine: Path, name: str) -> dict[str, Any]:
    try:
        value = json.loads((engine / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise EngineError(f"{engine / name} is damaged ({error}): build the engine again") from error
    return value if isinstance(value, dict) else {}


def _ops(graph: Path) -> dict[str, int] | None:
    """Number of nodes of each op, most frequent first; None where onnx is not installed."""
    try:
        import onnx
    except ModuleNotFoundError:
        return None
    nodes = onnx.load(graph, load_external_data=False).graph.node
    counts = Counter(f"{node.domain}::{node.op_type}" if node.domain else node.op_type for node in nodes)
    return dict(counts.most_common())


def _show(engine: Path, manifest: EngineManifest, facts: dict[str, Any], layers: bool) -> None:
    model, recipe = manifest.architecture, manifest.quantization
    group = f", group {recipe.group_size}" if recipe.group_size else ""
    heading(str(engine))
    for name, value in (
        ("model", f"{manifest.name} ({model.model_type}, {model.parameters / 1e6:.1f} M parameters)"),
        ("source", manifest.source),
        ("target", manifest.target),
        ("quantization", f"{recipe.scheme}{group}"),
        ("layers", f"{model.layers}, hidden {model.hidden_size}, heads {model.heads}, vocabulary {model.vocab_size}"),
        ("KV cache", _cache_size(manifest)),
        *([("states", _state_size(manifest))] if manifest.kv_cache.states else []),
        ("length", f"{model.max_length} tokens, prompt and answer together"),
        ("memory", _memory_text(facts["memory"], manifest.target)),
        ("size", f"{size_text(facts['bytes'])}{_packed_text(facts['packed_bytes'])}"),
        ("built", f"{datetime.fromisoformat(facts['built']).astimezone():%Y-%m-%d %H:%M}"),
        ("built with", ", ".join(f"{library} {version}" for library, version in manifest.versions.items())),
    ):
        click.echo(f"  {name:<13} {value}")
    heading("files")
    for name, size in facts["sizes"].items():
        click.echo(f"  {size / 1e6:>10.3f} MB  {name}")
    for role, counts in facts["ops"].items():
        heading(f"ops of the {role} graph")
        if counts is None:
            click.echo("  not shown: install onnx to list them, `pip install 'edgekiln[export]'`")
        for op, count in (counts or {}).items():
            click.echo(f"  {count:>6}  {op}")
    if facts["plan"]:
        from edgekiln.runtimes.cache_bytes import state_bytes

        longest = _sequence_bytes(manifest, manifest.architecture.max_length)
        _show_plan(facts["plan"], longest + 2 * state_bytes(manifest))
    if layers:
        _show_layers(facts["layers"])


def _show_layers(layers: dict[str, Any]) -> None:
    heading("quantization of each layer")
    click.echo("  bits  group    grid        relative error  clipped  layer")
    for name, layer in layers.items():
        grid = "symmetric" if layer["symmetric"] else "asymmetric"
        experts = f" ({layer['experts']} experts)" if layer.get("experts") else ""
        click.echo(
            f"  {layer['bits']:<4}  {layer['group_size'] or 'channel':<7}  {grid:<10}  "
            f"{layer['relative_error']:<14.2e}  {layer['clipped']:<7.2%}  {name}{experts}"
        )


def _show_plan(plan: dict[str, Any], sequence_bytes: float) -> None:
    heading("plan")
    click.echo(f"  {plan['library']} for compute capability {', '.join(plan['compute_capabilities'])}")
    if plan["options"]:
        click.echo(f"  options: {', '.join(plan['options'])}")
    for index, profile in enumerate(plan["profiles"]):
        (batch, max_batch), (tokens, max_tokens) = profile["batch"], profile["tokens"]
        memory = f", {plan['activation_mb'][index]:.0f} MB of activations" if "activation_mb" in plan else ""
        click.echo(
            f"  {profile['name']:<8} {batch} to {max_batch} sequences of {tokens} to {max_tokens} tokens, "
            f"{size_text(max_batch * sequence_bytes)} of KV cache and states when full{memory}"
        )
    for layer in plan["layers"]:
        # A plan without detailed layer information has only names.
        name, kind = (layer.get("Name", ""), layer.get("LayerType", "")) if isinstance(layer, dict) else (layer, "")
        click.echo(f"  {kind:<16} {name}")
    if plan["not_opened"]:
        click.echo(f"  layers are not shown: {plan['not_opened']}")


def _sequence_bytes(manifest: EngineManifest, length: int) -> float:
    from edgekiln.runtimes.cache_bytes import sequence_bytes

    return sequence_bytes(manifest, length)


def _memory_text(memory: dict[str, int], target: str) -> str:
    parts = [f"{size_text(memory['weights'])} of weights"]
    for name, what in (("kv_cache", "KV cache"), ("states", "states")):
        if memory[name]:
            parts.append(f"{size_text(memory[name])} of {what}")
    total = sum(memory[name] for name in ("weights", "kv_cache", "states"))
    program = f"; the program takes about {_PROGRAM_MB} MB more" if target == DEFAULT_TARGET else ""
    return f"{size_text(total)} at {memory['context']} tokens: {', '.join(parts)}{program}"


def _packed_text(packed: int) -> str:
    return f", and {size_text(packed)} of packed weights beside it" if packed else ""


def _cache_size(manifest: EngineManifest) -> str:
    """How keys and values are held, and what those of a sequence take."""
    if not manifest.architecture.kv_heads:
        return "none"
    kind = f"{manifest.kv_cache.layout}, {manifest.kv_cache.dtype}"
    if not any(manifest.kv_cache.windows):
        return f"{kind}, {size_text(_sequence_bytes(manifest, 1))} a token"
    longest, windows = manifest.architecture.max_length, Counter(manifest.kv_cache.windows)
    layers = ", ".join(f"{count} layers hold the last {size}" for size, count in sorted(windows.items()) if size)
    return f"{kind}, {size_text(_sequence_bytes(manifest, longest))} for {longest} tokens, of which {layers}"


def _state_size(manifest: EngineManifest) -> str:
    """How many states there are, and what those of a sequence take."""
    from edgekiln.runtimes.cache_bytes import state_bytes
    from edgekiln.runtimes.snapshots import MOST

    size = size_text(state_bytes(manifest))
    return f"{len(manifest.kv_cache.states)}, {size} a sequence, held twice and in up to {MOST} snapshots"
