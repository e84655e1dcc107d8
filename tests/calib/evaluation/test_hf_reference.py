from collections.abc import Iterable

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedConfig

from edgekiln.calib.evaluation.hf_reference import reference_scorer
from edgekiln.engine.manifest import SamplingDefaults, SpecialTokens
from edgekiln.sources.base import ModelSource

SIZES = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
CONFIGS = [
    LlamaConfig(**SIZES, intermediate_size=48, num_key_value_heads=2, tie_word_embeddings=True),
    LlamaConfig(**SIZES, intermediate_size=48, num_key_value_heads=2, tie_word_embeddings=False),
    GPT2Config(vocab_size=40, n_embd=32, n_layer=2, n_head=4),
]


class Weights:
    """A WeightReader over a model's tensors in bfloat16."""

    nbytes = 0

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self.tensors = tensors

    def keys(self) -> Iterable[str]:
        return self.tensors.keys()

    def __contains__(self, name: object) -> bool:
        return name in self.tensors

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.tensors[name].shape)

    def read(self, name: str) -> torch.Tensor:
        return self.tensors[name].to(torch.bfloat16)


@pytest.mark.parametrize("config", CONFIGS, ids=["llama-tied", "llama", "gpt2"])
def test_scores_are_those_of_transformers_at_every_position(config: PreTrainedConfig) -> None:
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(config).to(torch.bfloat16).float().eval()
    source = ModelSource(
        model_id="tiny",
        name="tiny",
        config=config,
        tokenizer_json="{}",
        chat_template=None,
        special_tokens=SpecialTokens(),
        sampling=SamplingDefaults(),
        weights=Weights(dict(model.named_parameters())),
    )
    tokens = np.arange(20, dtype=np.int64)
    logits = reference_scorer(source)(tokens)
    assert logits.dtype == np.float32
    with torch.no_grad():
        expected = model(torch.from_numpy(tokens)[None]).logits[0].numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-6)
