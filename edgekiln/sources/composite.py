"""The text decoder inside a model of transformers that also takes images or audio.

Such a model is built whole, on the meta device, because transformers' conversion mapping of checkpoints is for whole
models. Its decoder is then found by its modules: the head gives the logits, and the backbone is the module whose
configuration is the text configuration. What is neither is left out, and nothing of it is read.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto

from edgekiln.errors import UnsupportedModelError
from edgekiln.sources.decoder_class import decoder_class, same_logits
from edgekiln.sources.meta_model import meta_model

_MAPPINGS = (
    modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING,
    modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    modeling_auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING,
)
# What a model takes besides text, by words in the names of its parts' configurations.
_INPUTS = {"images": ("vision", "vit_", "visual", "vq_"), "audio": ("audio", "encoder_config", "speech", "acoustic")}


@dataclass(frozen=True)
class Composite:
    """A model that also takes images or audio, on the meta device.

    Attributes:
        whole: the model of the checkpoint.
        decoder: its text decoder, as a causal language model of its own.
        names: of each tensor of `decoder`, the name in `whole`.
        may_tie: weights of `whole` (name -> the one it is tied to) that only the text configuration ties.
    """

    whole: PreTrainedModel
    decoder: PreTrainedModel
    names: dict[str, str]
    may_tie: dict[str, str]

    @property
    def notes(self) -> list[str]:
        """The remark for the build report, where the model takes more than text."""
        if not type(self.whole.config).sub_configs:
            return []
        return left_out(self.whole) or [_note(self.whole, "other inputs than text")]


def left_out(model: PreTrainedModel) -> list[str]:
    """The remark for the build report where a model, by the parts of its configuration, takes images or audio."""
    # Some models wrap the one that takes the inputs, with parts for what they give, such as speech.
    kinds = type(model.config).sub_configs
    parts = [*kinds, *(part for kind in kinds.values() for part in getattr(kind, "sub_configs", ()))]
    inputs = [kind for kind, words in _INPUTS.items() if any(part.startswith(words) for part in parts)]
    return [_note(model, " and ".join(inputs))] if inputs else []


def _note(model: PreTrainedModel, inputs: str) -> str:
    return f"only the text decoder of {type(model).__name__} is used: the engine takes no {inputs}"


def composite_class(config: PretrainedConfig) -> type[PreTrainedModel] | None:
    """The class of transformers for a configuration with other inputs than text; None where there is none."""
    for mapping in _MAPPINGS:
        found: Any = mapping.get(type(config), None)
        if found is not None:
            model_class: type[PreTrainedModel] = found[0] if isinstance(found, tuple) else found
            return model_class
    return None


def causal_class(config: PretrainedConfig) -> type[PreTrainedModel] | None:
    """transformers' causal language model for a configuration; None where there is none."""
    found: Any = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    model_class: type[PreTrainedModel] | None = found[0] if isinstance(found, tuple) else found
    return model_class


def composite(config: PretrainedConfig, model_class: type[PreTrainedModel]) -> Composite:
    """Build the model of `config`, and find its text decoder.

    Args:
        config: of the whole model.
        model_class: the result of `composite_class`.

    Raises:
        SourceError: the configuration contradicts itself.
        UnsupportedModelError: the model has no text decoder with a head, or one that needs more than earlier tokens.
    """
    _check_text(config.get_text_config(decoder=True))
    with without_missing_libraries():
        whole = meta_model(config, model_class=model_class)
    kind = type(config.get_text_config(decoder=True))
    owner_name, owner, head_name = _head(whole, kind)
    prefix = f"{owner_name}." if owner_name else ""
    if type(owner.config) is kind:
        # A decoder class that serves only inside another model may take other positions than causal language models
        # do: those of Kosmos are indices into a table, and the model around it never passes them.
        if owner is not whole and type(owner) is not causal_class(owner.config):
            raise UnsupportedModelError(
                f"transformers has no causal language model for {owner.config.model_type}, the text decoder of "
                f"{config.model_type}, so edgekiln does not support it yet"
            )
        decoder = meta_model(owner.config, model_class=type(owner))
        return Composite(whole, decoder, {name: prefix + name for name in decoder.state_dict()}, {})
    backbone_name, backbone = _backbone(owner, kind)
    if not isinstance(owner.get_submodule(head_name), torch.nn.Linear):
        raise UnsupportedModelError(
            f"{owner.config.model_type} has a head that is no linear layer, which edgekiln does not support yet"
        )
    text_ties = bool(getattr(backbone.config, "tie_word_embeddings", False))
    decoder = _decoder(owner, backbone_name, backbone, head_name)
    own_backbone, own_head = _name(decoder, decoder.base_model), _name(decoder, decoder.get_output_embeddings())
    moved = {f"{own_backbone}.": f"{prefix}{backbone_name}.", f"{own_head}.": f"{prefix}{head_name}."}
    names = {
        name: new + name.removeprefix(old)
        for name in decoder.state_dict()
        for old, new in moved.items()
        if name.startswith(old)
    }
    may_tie = {}
    if text_ties and not decoder.config.tie_word_embeddings:
        embedding = _name(decoder, decoder.get_input_embeddings())
        may_tie = {names[f"{own_head}.weight"]: names[f"{embedding}.weight"]}
    return Composite(whole, decoder, names, may_tie)


def _check_text(config: PretrainedConfig) -> None:
    """Refuse decoders of which text alone is no input that they were trained for."""
    if getattr(config, "use_bidirectional_attention", None) is True:
        raise UnsupportedModelError(
            f"{config.model_type} attends in both directions, which a causal decoder graph cannot express"
        )


def _decoder(owner: PreTrainedModel, backbone_name: str, backbone: PreTrainedModel, head: str) -> PreTrainedModel:
    """The causal language model with this backbone: transformers' own where it computes the logits of `owner`."""
    config = backbone.config
    # Whether the two are tied is up to the configuration of the whole model.
    config.tie_word_embeddings = any(name.startswith(f"{head}.") for name in owner.all_tied_weights_keys)
    own_class = causal_class(config)
    if own_class is not None:
        causal = meta_model(config, model_class=own_class)
        path = _name(causal, causal.base_model), _name(causal, causal.get_output_embeddings())
        if type(causal.base_model) is type(backbone) and same_logits(causal, path, owner, (backbone_name, head)):
            return causal
    return meta_model(config, model_class=decoder_class(owner, backbone_name, backbone, head))


def _head(whole: PreTrainedModel, kind: type) -> tuple[str, PreTrainedModel, str]:
    """The innermost model around the head of the text decoder, after its name and before the head's name in it."""
    for model in _models(whole).values():
        if type(model.config.get_text_config(decoder=True)) is not kind or model.get_output_embeddings() is None:
            continue
        head = model.get_output_embeddings()
        head_name = _name(whole, head)
        owner_name = max((name for name in _models(whole) if _within(head_name, name)), key=len)
        return owner_name, _models(whole)[owner_name], head_name.removeprefix(owner_name).lstrip(".")
    raise UnsupportedModelError(
        f"model type {whole.config.model_type} is not a causal language model: give a decoder-only text model"
    )


def _backbone(owner: PreTrainedModel, kind: type) -> tuple[str, PreTrainedModel]:
    """The outermost module whose configuration is the text configuration, with its name in `owner`."""
    for name, model in _models(owner).items():
        if type(model.config) is kind:
            return name, model
    raise UnsupportedModelError(
        f"{owner.config.model_type} has no module of its own for its text decoder, which edgekiln does not support yet"
    )


def _models(module: torch.nn.Module) -> dict[str, PreTrainedModel]:
    return {name: part for name, part in module.named_modules() if isinstance(part, PreTrainedModel)}


def _name(whole: torch.nn.Module, part: torch.nn.Module | None) -> str:
    return next(name for name, module in whole.named_modules() if module is part)


def _within(name: str, outer: str) -> bool:
    return not outer or name.startswith(f"{outer}.")


class _LeftOut(torch.nn.Module):
    """In place of a part that a library would make which is not installed."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.config = config


@contextlib.contextmanager
def without_missing_libraries() -> Iterator[None]:
    """Inside the block, transformers leaves out parts of a model that need a library that is not installed.

    Image encoders come from timm, for one, and no engine needs them.
    """
    kind: Any = PreTrainedModel
    original = kind.__dict__["_from_config"]
    depth = 0

    def from_config(cls: Any, config: PretrainedConfig, **kwargs: Any) -> Any:
        nonlocal depth
        depth += 1
        try:
            return original.__func__(cls, config, **kwargs)
        except ImportError:
            if depth == 1:
                raise
            return _LeftOut(config)
        finally:
            depth -= 1

    kind._from_config = classmethod(from_config)
    try:
        yield
    finally:
        kind._from_config = original
