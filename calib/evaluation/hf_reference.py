"""The reference that engines are compared with: the Hugging Face model in float32."""

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.initialization import no_init_weights

from edgekiln.calib.evaluation.perplexity import Scorer
from edgekiln.calib.torch_threads import limited_torch_threads
from edgekiln.sources.base import ModelSource


def reference_scorer(source: ModelSource) -> Scorer:
    """A scorer that runs transformers' own forward of `source` in float32.

    Raises:
        SourceError: a weight cannot be read.
    """
    return model_scorer(load_model(source))


def load_model(source: ModelSource) -> PreTrainedModel:
    """Load the model of `source` with all weights in float32.

    Raises:
        SourceError: a weight cannot be read.
    """
    with no_init_weights():
        model_class = source.model_class
        create = AutoModelForCausalLM.from_config if model_class is None else model_class._from_config
        model = create(source.config, dtype=torch.float32)
    # no_init_weights also skips the tying of weights.
    model.tie_weights()
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if name in source.weights:
                value.copy_(source.weights.read(name))
    return model.eval()


def model_scorer(model: PreTrainedModel) -> Scorer:
    """Wrap a causal language model of transformers as a scorer."""
    model.eval()

    def score(tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        ids = torch.from_numpy(np.ascontiguousarray(tokens, dtype=np.int64))[None].to(model.device)
        with limited_torch_threads(), torch.inference_mode():
            logits = model(input_ids=ids, use_cache=False).logits[0]
        return logits.to("cpu", torch.float32).numpy()

    return score
