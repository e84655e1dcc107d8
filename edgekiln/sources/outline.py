"""A model without its weights: of a model on the hub, only the small files are downloaded."""

import os
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgekiln.engine.manifest import SamplingDefaults
from edgekiln.errors import SourceError
from edgekiln.progress import Progress
from edgekiln.sources.base import ModelSource
from edgekiln.sources.resolve import ALIASES, HUB_ID, require_extra, resolve

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

    from edgekiln.calib.formats.prequantized import PrequantizedWeight


class ShapesOnly:
    """A `WeightReader` of the shapes that a configuration gives, without a checkpoint."""

    def __init__(self, config: "PretrainedConfig", trust_remote_code: bool, nbytes: int) -> None:
        """Make the shapes; errors are those of `meta_model`."""
        self.nbytes = nbytes
        from edgekiln.sources.meta_model import meta_model

        model = meta_model(config, trust_remote_code)
        self._shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        self._tied = set(getattr(model, "all_tied_weights_keys", {}) if config.tie_word_embeddings else ())

    def keys(self) -> Iterable[str]:
        """Names of the tensors, without tied duplicates."""
        return [name for name in self._shapes if name not in self._tied]

    def __contains__(self, name: object) -> bool:
        return name in self._shapes

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return self._shapes[name]

    def read(self, name: str) -> "torch.Tensor":
        """There is nothing to read."""
        raise SourceError(f"{name} was not downloaded")

    def read_expert(self, name: str, index: int) -> "torch.Tensor":
        """There is nothing to read."""
        raise SourceError(f"expert {index} of {name} was not downloaded")

    def prequantized(self, name: str) -> "PrequantizedWeight | None":
        """Nothing is known of codes."""
        return None


def outline(model_id: str, trust_remote_code: bool, progress: Progress) -> tuple[ModelSource, int]:
    """Open a model as `resolve` does, but do not download weights.

    Returns:
        The model, and the bytes that are left to download. Where there are any, its weights have shapes only.

    Raises:
        SourceError: as `resolve`; or a model with images or audio that is not here.
        UnsupportedModelError: as `resolve`.
    """
    local = model_id in ALIASES or os.path.exists(os.path.expanduser(model_id)) or not HUB_ID.fullmatch(model_id)
    if local:
        return resolve(model_id, trust_remote_code, progress), 0
    require_extra()
    from edgekiln.sources.directory import check_config
    from edgekiln.sources.hub import planned_download

    planned = planned_download(model_id, trust_remote_code, partial(check_config, trust_remote_code=trust_remote_code))
    if not planned.missing:
        return resolve(model_id, trust_remote_code, progress), 0
    return _from_small_files(model_id, trust_remote_code, planned.nbytes, progress), planned.missing


def _from_small_files(model_id: str, trust_remote_code: bool, nbytes: int, progress: Progress) -> ModelSource:
    from edgekiln.sources.composite import composite_class
    from edgekiln.sources.directory import load_config, read_config
    from edgekiln.sources.generation_config import read_generation_config
    from edgekiln.sources.hub import download_small_files
    from edgekiln.sources.tokenizer import load_tokenizer

    directory: Path = download_small_files(model_id, trust_remote_code, progress)
    raw = read_config(directory)
    config = load_config(raw, directory, trust_remote_code)
    if composite_class(config) is not None or config.get_text_config(decoder=True) is not config:
        raise SourceError(
            f"{model_id} has parts beside a text decoder, which only its weights tell apart: download it first, with "
            f"`edgekiln pull {model_id}`"
        )
    tokenizer = load_tokenizer(directory, config, read_generation_config(directory), trust_remote_code)
    source = ModelSource(
        model_id=model_id,
        name=model_id.split("/")[1].partition("@")[0],
        config=config,
        tokenizer_json=tokenizer.json,
        chat_template=tokenizer.chat_template,
        special_tokens=tokenizer.special_tokens,
        sampling=SamplingDefaults(),
        weights=ShapesOnly(config, trust_remote_code, nbytes),
    )
    if raw.get("quantization_config"):
        source = replace(source, notes=("the checkpoint is quantized: its codes may be kept, and take other sizes",))
    return source
