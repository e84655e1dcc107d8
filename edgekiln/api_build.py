"""The Python API that builds engines: `build`. The command line uses it, too."""

from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from edgekiln import arguments
from edgekiln.api import Engine
from edgekiln.api_arguments import BuildKeywords, check_names
from edgekiln.engine.directory import check_output
from edgekiln.errors import RequestError
from edgekiln.extras import requires_extra
from edgekiln.progress import Progress
from edgekiln.targets import DEFAULT_TARGET

if TYPE_CHECKING:
    from edgekiln.sources.base import ModelSource


def build(
    model: "str | Path | ModelSource",
    out: str | Path,
    target: str = DEFAULT_TARGET,
    quant: str = "int8",
    *,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
    **options: Unpack[BuildKeywords],
) -> Engine:
    """Build an engine directory from a model. Needs the extra `export`: pip install 'edgekiln[export,cpu]'.

    Args:
        model: Hugging Face directory, hub id `owner/name[@revision]`, GGUF file, built-in name such as "smollm2-135m",
            or a source that `edgekiln.sources.resolve` returned.
        out: directory to make; an engine of the same model there is replaced, one of another model with `force`.
        target: runtime to build for, a key of `edgekiln.targets.TARGETS`.
        quant: quantization preset, a key of `edgekiln.calib.presets.PRESETS`.
        trust_remote_code: run model code that the checkpoint contains.
        progress: called with the name of the step and the share of it that is done, in [0, 1].
        options: see `edgekiln.pipeline.options.BuildOptions`.

    Returns:
        The engine; its runtime is loaded on first use, so that engines for other machines can be built.

    Raises:
        RequestError: an option is unknown, out of range, or does not suit the model.
        SourceError: the model is not found, damaged or not trusted.
        UnsupportedModelError: the model has something that edgekiln or the target does not support.
        EngineError: `out` cannot be written.
        EdgekilnError: a library is not installed.
    """
    from edgekiln.pipeline.options import BuildOptions
    from edgekiln.sources.base import ModelSource

    out = arguments.path("out", out)
    arguments.flag("trust_remote_code", trust_remote_code)
    if progress is not None and not callable(progress):
        raise RequestError(f"progress must be a function, got {progress!r:.60}")
    if not isinstance(model, ModelSource):
        model = str(arguments.path("model", model)) if not isinstance(model, str) else model
    check_names(options, BuildKeywords.__annotations__)
    chosen = BuildOptions(target=target, quant=quant, **options)
    with requires_extra("export"):
        from edgekiln.pipeline.build import build_engine
        from edgekiln.sources.resolve import resolve
    if isinstance(model, str):
        check_output(out)  # before a model is downloaded
        model = resolve(model, trust_remote_code=trust_remote_code, progress=progress)
    build_engine(model, out, chosen, progress)
    return Engine(out)
