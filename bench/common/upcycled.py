"""A mixture of experts with real text behind it: the MLP of a dense model, copied into experts that differ a little.

No mixture is small enough to come with the tests, and random weights have no perplexity.
"""

from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import MixtralConfig, MixtralForCausalLM, PreTrainedTokenizerFast

from edgekiln.calib.evaluation.hf_reference import load_model
from edgekiln.sources.base import ModelSource


@torch.no_grad()
def write_upcycled(source: ModelSource, directory: Path, experts: int = 4, chosen: int = 2, noise: float = 0.2) -> None:
    """Write a checkpoint of a Mixtral with the layers of a Llama.

    Args:
        source: a model of the Llama architecture.
        directory: gets the checkpoint.
        experts: of each layer.
        chosen: experts that a token gets, by a random router.
        noise: standard deviation of the difference of an expert's weights, relative to that of the weights.
    """
    dense = load_model(source)
    torch.manual_seed(0)
    config = dense.config.to_dict()
    kept = ("architectures", "model_type", "torch_dtype", "dtype", "mlp_bias", "attention_bias", "pretraining_tp")
    shared = {name: value for name, value in config.items() if name not in kept}
    mixture = MixtralForCausalLM(
        MixtralConfig(**shared, num_local_experts=experts, num_experts_per_tok=chosen, sliding_window=None)
    )
    mixture.load_state_dict(dense.state_dict(), strict=False)
    for layer, block in zip(dense.model.layers, mixture.model.layers, strict=True):
        mlp, target = layer.mlp, block.mlp.experts
        gate_up = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])
        for stack, weight in ((target.gate_up_proj, gate_up), (target.down_proj, mlp.down_proj.weight)):
            stack.copy_(weight + noise * weight.std() * torch.randn(stack.shape))
    mixture.save_pretrained(directory)
    tokenizer = Tokenizer.from_str(source.tokenizer_json)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(directory)
