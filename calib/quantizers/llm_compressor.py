"""Run modifiers of llm-compressor over a model, for the quantizers GPTQ and AWQ."""

import contextlib
import importlib
import importlib.util
import io
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from edgekiln.calib.data.loader import Windows
from edgekiln.calib.expert_linears import EACH
from edgekiln.calib.formats.scheme import Scheme
from edgekiln.engine.temporary import scratch_directory
from edgekiln.errors import EdgekilnError, first_line
from edgekiln.progress import StepProgress

_BATCH = 8


class LayerObserver(Protocol):
    """Observes a run of llm-compressor, which quantizes the decoder layers in order.

    Attributes:
        modules: the linear layers whose inputs it observes, by name.
    """

    modules: dict[str, torch.nn.Module]

    def input_hook(self, name: str) -> Callable[..., None]:
        """A forward pre-hook for the linear layer `name`."""
        ...

    def finish(self, modules: Iterable[torch.nn.Module]) -> None:
        """Called when `modules` are quantized, before the next decoder layer sees their outputs."""
        ...


def require_llm_compressor(method: str) -> None:
    """Check that llm-compressor is installed.

    Raises:
        EdgekilnError: it is not.
    """
    if importlib.util.find_spec("llmcompressor") is None:
        raise EdgekilnError(f"{method} needs llm-compressor: `pip install 'edgekiln[calib]'`, or use --quant int4")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the library's logs and progress bars."""
    from loguru import logger

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for package in ("llmcompressor", "compressed_tensors"):
        logger.disable(package)
    tracer = logging.getLogger("torch.fx")
    level = tracer.level
    tracer.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tracer.setLevel(level)


@_quiet()
def run_oneshot(
    model: PreTrainedModel,
    method: str,
    modifiers: Callable[[dict[str, Any]], list[Any]],
    schemes: dict[str, Scheme],
    windows: Windows,
    progress: StepProgress,
    observer: LayerObserver | None = None,
) -> None:
    """Run `llmcompressor.oneshot` with its sequential pipeline, in place.

    Args:
        model: in float32.
        method: name of the quantizer, for messages.
        modifiers: makes the modifiers to run from the keyword arguments of a quantization modifier, which say which
            layers are quantized and how. It imports them itself, since the library logs while it is imported.
        schemes: linear layer to its scheme, all in groups.
        windows: int64 [windows, length] calibration tokens.
        progress: called with the share of the decoder layers that are done.
        observer: sees the inputs of linear layers, and each decoder layer once it is quantized.

    Raises:
        EdgekilnError: llm-compressor does not support the model.
    """
    from compressed_tensors.quantization import disable_quantization
    from llmcompressor import oneshot
    from llmcompressor.modifiers import Modifier

    layers = model.config.get_text_config().num_hidden_layers
    done = 0

    class Follow(Modifier):
        """Calls `observer` and `progress`."""

        def on_initialize(self, state: Any, **_: Any) -> bool:
            return True

        def on_calibration_start(self, state: Any, event: Any, **_: Any) -> None:
            if observer is not None:
                for name, module in observer.modules.items():
                    self.register_hook(module, observer.input_hook(name), "forward_pre")

        def on_sequential_epoch_end(self, state: Any, event: Any, modules: Any, **_: Any) -> None:
            nonlocal done
            if observer is not None:
                observer.finish(modules)
            done += 1
            progress(min(1.0, done / layers))

        def on_calibration_end(self, state: Any, event: Any, **_: Any) -> None:
            self.remove_hooks()

    recipe = [*modifiers({"config_groups": _config_groups(schemes), "ignore": ["lm_head"]}), Follow()]
    samples: Any = [{"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in torch.from_numpy(windows)]
    data: Any = torch.utils.data.DataLoader(samples, batch_size=_BATCH)
    # oneshot needs a tokenizer whenever it gets data, and a configuration on disk. It uses neither.
    unused: Any = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))
    with scratch_directory() as directory:
        model.config.save_pretrained(directory)
        model.config._name_or_path = str(directory)
        try:
            with _without_pinned_memory(), _without_linearization():
                oneshot(model=model, recipe=recipe, dataset=data, processor=unused, pipeline="sequential")
        except EdgekilnError:
            raise
        except Exception as error:  # any error of the model's code while it is traced
            raise EdgekilnError(
                f"llm-compressor cannot run {method} on {model.config.model_type}: {first_line(error)}; "
                "use --quant int4 or int8"
            ) from error
    # Otherwise each forward pass would round the weights, which edgekiln changes, to the library's grid again.
    model.apply(disable_quantization)


def _config_groups(schemes: dict[str, Scheme]) -> dict[str, Any]:
    """`config_groups` of a quantization modifier: one group per scheme, whose targets are layer names."""
    return {
        f"group_{index}": {
            "targets": _targets(name for name, other in schemes.items() if other == scheme),
            "weights": {
                "num_bits": scheme.bits,
                "type": "int",
                "symmetric": scheme.symmetric,
                "strategy": "group",
                "group_size": scheme.group_size,
                "observer": "mse",
            },
        }
        for index, scheme in enumerate(dict.fromkeys(schemes.values()))
    }


def _targets(names: Iterable[str]) -> list[str]:
    """The names, with one pattern for all experts of a layer: the library compares each target with each module."""
    owners = ((name, name.rpartition(".")[0]) for name in names)
    targets = (f"re:{re.escape(owner)}\\.\\d+$" if owner.endswith(EACH) else name for name, owner in owners)
    return list(dict.fromkeys(targets))


@contextlib.contextmanager
def _without_linearization() -> Iterator[None]:
    """Keep the library from replacing experts, which have linear layers already."""
    library: Any = importlib.import_module("llmcompressor.entrypoints.oneshot")
    find = library.get_non_linearized_moes
    library.get_non_linearized_moes = lambda _model: []
    try:
        yield
    finally:
        library.get_non_linearized_moes = find


@contextlib.contextmanager
def _without_pinned_memory() -> Iterator[None]:
    """Keep AWQ from pinning its cache in memory where there is no accelerator, which torch refuses."""
    from llmcompressor.pipelines.cache import IntermediatesCache

    cache: Any = IntermediatesCache
    pin = getattr(cache, "pin_memory", None)
    if pin is None or torch.accelerator.is_available():
        yield
        return
    cache.pin_memory = lambda *_arguments, **_keywords: None
    try:
        yield
    finally:
        cache.pin_memory = pin
