"""Embeddings of n-grams, in chunks with a state, compared with those of transformers."""

from typing import Any

import pytest
import torch

from edgekiln.export.tracing.cache_trace import CacheTrace, tracing
from edgekiln.export.tracing.ngram_embedding import embeddings
from support.models import tiny_model

END = 257
IDS = torch.tensor(
    [[5, 7, END, 9, 9, 4, END, END, 8, 319, 6, 5, 7, 0], [END, 1, 2, 3, 4, END, 6, 7, 8, 9, 1, END, 2, END]]
)


@pytest.fixture(scope="module", params=[3, 4])
def module(request: pytest.FixtureRequest) -> Any:
    sizes = {"ngram_size": request.param, "ple_embed_dim": 96}
    return tiny_model("qwen4_exp_text", **sizes).model.layers[2].ple.ple_embedding


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("chunk", [1, 3, IDS.shape[1]])
def test_chunks_give_the_embeddings_of_the_whole(module: Any, chunk: int, dtype: torch.dtype) -> None:
    state = torch.zeros(2, module.ngram_size - 1, 2, dtype=dtype)
    found = []
    for ids in IDS.split(chunk, dim=1):
        with torch.no_grad(), tracing(CacheTrace(past={module.layer_idx: [(state,)]})) as trace:
            found.append(embeddings(module, ids))
        state = trace.present[module.layer_idx][0][0].to(dtype)
    with torch.no_grad():
        torch.testing.assert_close(torch.cat(found, dim=1), type(module).forward(module, IDS, None))
