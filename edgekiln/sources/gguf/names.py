"""Names of a model's tensors in a GGUF file, by the `gguf` package's map of names.

The map has the names of published checkpoints. What transformers names otherwise, or merges, is found by the rules here
and by `Architecture.merges`.
"""

import re
from collections.abc import Iterable, Mapping

from gguf import MODEL_ARCH_NAMES, TensorNameMap, get_tensor_name_map

from edgekiln.sources.gguf.layouts import Merge, expert_rows

_SUFFIXES = (".weight", ".bias")
_PREFIXES = ("", "transformer.", "model.")
_GATE_UP = "experts.gate_up_proj"
_EXPERTS = Merge(("ffn_gate_exps", "ffn_up_exps"), expert_rows)
_LAYER = re.compile(r"\.(\d+)\.")


def file_names(
    names: Iterable[str], architecture: str, layers: int, merges: Mapping[str, Merge], stored: Mapping[str, object]
) -> dict[str, tuple[tuple[str, ...], Merge | None]]:
    """Find the tensors of a model in a file.

    Args:
        names: of the model's tensors.
        architecture: general.architecture of the file.
        layers: number of layers.
        merges: regular expression for the end of a model's tensor name -> the parts of the tensor in the file.
        stored: names in the file.

    Returns:
        Of each tensor of the model that the file has: the names in the file, and how they are joined.
    """
    kind = next(kind for kind, name in MODEL_ARCH_NAMES.items() if name == architecture)
    table = get_tensor_name_map(kind, layers)
    found: dict[str, tuple[tuple[str, ...], Merge | None]] = {}
    for name in names:
        stem, suffix = _stem(name)
        if single := _single(table, name, stored):
            found[name] = (single,), None
            continue
        wanted = [merge for pattern, merge in merges.items() if re.search(f"{pattern}$", stem)]
        wanted += [_EXPERTS] if stem.endswith(_GATE_UP) else []
        layer = _LAYER.search(name)
        if layer is None:
            continue
        for merge in wanted:
            parts = tuple(f"blk.{layer[1]}.{part}{suffix or '.weight'}" for part in merge.names)
            if any(part in stored for part in parts):
                found[name] = parts, merge
                break
    return found


def _stem(name: str) -> tuple[str, str]:
    """A tensor's name without its suffix, and the suffix: "x.bias" and "x_bias" are both ("x", ".bias")."""
    for suffix in _SUFFIXES:
        if name.endswith(suffix):
            return name.removesuffix(suffix), suffix
    return (name.removesuffix("_bias"), ".bias") if name.endswith("_bias") else (name, "")


def _single(table: TensorNameMap, name: str, stored: Mapping[str, object]) -> str | None:
    """The name in the file of a tensor that is stored as a whole."""
    stem, suffix = _stem(name)
    # Mamba's dt_bias; NVIDIA's hybrids are named as Mamba's checkpoints.
    stems = [stem, f"{stem}_proj"] if stem.endswith(".dt") else [stem]
    stems += [f"backbone.{other.removeprefix('model.')}" for other in stems if other.startswith("model.")]
    for other in stems:
        for prefix in _PREFIXES:
            mapped = table.get_name(other.removeprefix(prefix)) if other.startswith(prefix) else None
            for candidate in (f"{mapped}{suffix}", f"{mapped}.weight" if not suffix else "", mapped):
                if mapped is not None and candidate in stored:
                    return candidate
    # The package has some names with their suffix, and a file then has none, or that of a bias.
    mapped = table.get_name(name)
    return next((candidate for candidate in (mapped, f"{mapped}.bias") if candidate in stored), None)
