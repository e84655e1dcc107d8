"""The last step of a build: run a few tokens through the finished engine, and render its chat template.

An engine that cannot answer a first prompt fails here, while it is still in a temporary directory.
"""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil

from edgekiln import system
from edgekiln.engine.chat_templates import DEFAULT_TEMPLATE, read_chat_templates
from edgekiln.engine.directory import CHAT_SEGMENTS_FILE, WEIGHTS_FILE
from edgekiln.engine.manifest import EngineManifest
from edgekiln.errors import EdgekilnError, EngineError, RequestError
from edgekiln.pipeline.chat_segments import ChatSegments
from edgekiln.runtimes.base import Ids, Logits, PackCacheUse, Runtime
from edgekiln.runtimes.text.template_budget import TemplateLimitError
from edgekiln.runtimes.text.tokenizer import Tokenizer
from edgekiln.targets import find_target
from edgekiln.units import size_text

_MESSAGES = [{"role": "user", "content": "Hello"}]
_PROMPT_TOKENS = 8  # at most
_NEW_TOKENS = 2
_MEMORY = 2.5  # times the size of the weights file: the file itself, packed weights, and room for the rest


def smoke_run(directory: Path, manifest: EngineManifest) -> list[str]:
    """Render the chat template of an engine, tokenize the text, and generate two tokens, where its target runs here.

    Args:
        directory: a finished engine that is not published yet.
        manifest: its manifest.

    Returns:
        Notes for the build report: what could not be tried, and why.

    Raises:
        EngineError: the engine does not load or run, or its logits are not finite.
        TemplateLimitError: a chat template takes too long or writes too much.
    """
    prompt, notes = _prompt(directory, manifest)
    try:
        why = _run(directory, manifest, prompt, _NEW_TOKENS, "temporary")
    except EdgekilnError as error:
        raise EngineError(f"the finished engine does not run and is not kept: {error}") from error
    return [*notes, f"the engine was not run after it was built: {why}"] if why else notes


def try_engine(directory: Path, manifest: EngineManifest, new_tokens: int) -> str | None:
    """The same for an engine that is in use; neither reads nor writes packed weights.

    Args:
        directory: the engine.
        manifest: its manifest.
        new_tokens: tokens to generate, at most.

    Returns:
        Why it cannot be run on this machine; None where it was.

    Raises:
        EdgekilnError: as `smoke_run`.
    """
    prompt, _ = _prompt(directory, manifest)
    return _run(directory, manifest, prompt, new_tokens, "off")


def _run(
    directory: Path, manifest: EngineManifest, prompt: Ids, new_tokens: int, pack_cache: PackCacheUse
) -> str | None:
    """Generate tokens; why the engine cannot be run on this machine, or None."""
    if why := next(_obstacles(directory, manifest), None):
        return why
    runtime = find_target(manifest.target).load_adapter()(directory, manifest, pack_cache=pack_cache)
    _generate(runtime, prompt[: manifest.architecture.max_length], new_tokens)
    return None


def _prompt(directory: Path, manifest: EngineManifest) -> tuple[Ids, list[str]]:
    """int64 [S] token ids of a conversation, S in [1, 8], and notes on chat templates that do not take it.

    Raises:
        EngineError: the chat segments do not give the text of the chat template.
        TemplateLimitError: a chat template takes too long or writes too much.
    """
    tokenizer = Tokenizer.from_engine(directory, manifest)
    notes, ids = [], tokenizer.encode("Hello")
    templates = read_chat_templates(directory, manifest.files) or {}
    for name in [DEFAULT_TEMPLATE] if isinstance(templates, str) else templates:
        what = "the chat template" if name == DEFAULT_TEMPLATE else f"the chat template {name}"
        try:
            rendered = tokenizer.encode_chat(_MESSAGES, chat_template=name)
        except TemplateLimitError:
            raise
        except RequestError as error:
            notes.append(f"{what} was not tried, because it refuses a message of the user alone: {error}")
            continue
        if name == DEFAULT_TEMPLATE:
            ids = rendered
            _check_segments(directory, tokenizer)
    ids = ids[ids < manifest.architecture.vocab_size][:_PROMPT_TOKENS]
    return ids if ids.size else np.zeros(1, dtype=np.int64), notes


def _check_segments(directory: Path, tokenizer: Tokenizer) -> None:
    """Check that the chat segments, which C++ renders, give the text of the chat template."""
    path = directory / CHAT_SEGMENTS_FILE
    if not path.is_file():
        return
    segments = ChatSegments.model_validate_json(path.read_text(encoding="utf-8"))
    if segments.render(_MESSAGES, str) != tokenizer.apply_chat_template(_MESSAGES, strftime_now=str):
        raise EngineError(f"{path} does not give the text of the chat template: report this as a bug of edgekiln")


def _obstacles(directory: Path, manifest: EngineManifest) -> Iterator[str]:
    """Why the engine cannot be run on this machine."""
    target, size = find_target(manifest.target), (directory / WEIGHTS_FILE).stat().st_size
    if not target.to_run.gpu:
        if importlib.util.find_spec("onnxruntime") is None:
            yield f"ONNX Runtime is not installed: pip install 'edgekiln[{target.extra}]'"
        free = psutil.virtual_memory().available
        if size * _MEMORY > free:
            yield f"its weights of {size_text(size)} need more than the {size_text(free)} of memory that are free"
        return
    machine = system.detect()
    yield from system.target_states(machine)[target.name].running
    here = {gpu.compute_capability for gpu in machine.gpus}
    if manifest.tensorrt is not None and not here & set(manifest.tensorrt.compute_capabilities):
        yield f"its plan is for compute capability {', '.join(manifest.tensorrt.compute_capabilities)}"
    if machine.gpus and size > machine.gpus[0].memory_mb * 1e6:
        yield f"its weights of {size_text(size)} do not fit into the GPU"


def _generate(runtime: Runtime, prompt: Ids, new_tokens: int) -> None:
    """Generate up to `new_tokens` tokens greedily, and check their logits.

    Raises:
        EngineError: logits are not finite.
        EdgekilnError: the runtime failed.
    """
    cache = runtime.new_cache()
    logits = _finite(runtime.prefill(cache, 0, prompt))
    for _ in range(min(new_tokens, runtime.properties.max_length - prompt.size)):
        logits = _finite(runtime.step(cache, np.array([logits.argmax()], dtype=np.int64))[0])


def _finite(logits: Logits) -> Logits:
    if not np.isfinite(logits).all():
        raise EngineError("its logits are NaN or infinite; check the weights of the model, or try another --quant")
    return logits
