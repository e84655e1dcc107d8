"""Random models of transformers that tests write as GGUF files."""

import copy
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from support.gguf_cases import FIELDS


def random_model(model_type: str, fields: dict[str, Any]) -> PreTrainedModel:
    """A random model with the fields of a case of `gguf_cases`."""
    # Configurations change the dictionaries that they get.
    config = AutoConfig.for_model(
        model_type,
        **copy.deepcopy(
            {name: value for name, value in {**FIELDS, **fields}.items() if name != "num_hidden_layers" or value}
        ),
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # Vectors stay near what they are at first: decay rates and norms of any sign make no model.
            if parameter.dim() > 1 and not (parameter == parameter[:1]).all():
                parameter.normal_(std=0.2)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model
