"""The transformers model of a configuration, on the meta device."""

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from edgekiln.errors import SourceError, UnsupportedModelError, one_line
from edgekiln.sources.rope_parameters import rope_types


def meta_model(
    config: PretrainedConfig, trust_remote_code: bool = False, model_class: type[PreTrainedModel] | None = None
) -> PreTrainedModel:
    """Build a model of `config` on the meta device, which allocates no weights.

    Args:
        config: its configuration.
        trust_remote_code: run model code that the checkpoint contains.
        model_class: class of the model; None for the causal language model that transformers has for `config`.

    Raises:
        SourceError: the configuration contradicts itself.
        UnsupportedModelError: transformers has no causal language model for this configuration.
    """
    try:
        with torch.device("meta"):
            if model_class is not None:
                return model_class._from_config(config)
            return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except Exception as error:
        # Each model class validates its configuration with other exceptions.
        if "Unrecognized configuration class" in str(error):
            raise UnsupportedModelError(
                f"model type {config.model_type} is not a causal language model: give a decoder-only text model"
            ) from error
        if isinstance(error, KeyError) and error.args[0] in rope_types(config):
            kind = f"{error.args[0]!r:.60}"
            raise UnsupportedModelError(
                f"{config.model_type} has positions of rope type {kind}, which transformers does not know"
            ) from error
        raise SourceError(
            f"the configuration of this {config.model_type} model does not make one: {one_line(error)}"
        ) from error
