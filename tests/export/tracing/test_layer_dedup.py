"""Layer deduplication: one trace of equal layers gives the graph of tracing all layers."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

from edgekiln.export.tracing import trace as tracer
from edgekiln.export.tracing.layer_dedup import LayerDedupError, find_layers, find_representatives, only_representatives
from edgekiln.export.tracing.meta_model import build_meta_model
from edgekiln.pipeline import assemble
from edgekiln.pipeline.assemble import canonical_graph
from edgekiln.pipeline.options import BuildOptions
from edgekiln.sources.resolve import resolve
from support.graphs import ops, run_reference
from support.models import VOCABULARY, save_checkpoint, tiny_config


def layers_of(family: str, **options: Any) -> tuple[str, list[torch.nn.Module], Any]:
    model = build_meta_model(tiny_config(family, **options))
    found = find_layers(model, 4)
    assert found is not None
    return found[0], list(found[1]), model.config


@pytest.mark.parametrize(
    ("family", "options", "representatives"),
    [
        ("llama", {}, [0, 0, 0, 0]),
        ("gpt2", {}, [0, 0, 0, 0]),
        ("gemma2", {}, [0, 1, 0, 1]),
        ("gemma3_text", {"layer_types": ["sliding_attention"] * 3 + ["full_attention"]}, [0, 0, 0, 3]),
        ("smollm3", {"no_rope_layers": [1, 0, 1, 1]}, [0, 1, 0, 0]),
        ("qwen3_moe", {"num_experts": 4, "mlp_only_layers": [2]}, [0, 0, 2, 0]),
    ],
)
def test_representatives(family: str, options: dict[str, Any], representatives: list[int]) -> None:
    _, layers, config = layers_of(family, **options)
    assert find_representatives(layers, config) == representatives


def test_layers_differ_by_attribute_config_entry_or_buffer() -> None:
    _, layers, config = layers_of("llama")
    layers[1].mlp.beta = 0.5  # type: ignore[union-attr]
    assert find_representatives(layers, config) == [0, 1, 0, 0]
    config.temperatures = [1.0, 1.0, 1.0, 2.0]
    assert find_representatives(layers, config) == [0, 1, 0, 3]
    layers[2].register_buffer("table", torch.ones(2))
    assert find_representatives(layers, config) == [0, 1, 2, 3]
    layers[0].register_buffer("table", torch.ones(2))
    assert find_representatives(layers, config) == [0, 1, 0, 3]
    layers[0].get_buffer("table")[1] = 2
    assert find_representatives(layers, config) == [0, 1, 2, 3]


@pytest.mark.parametrize(("family", "prefix"), [("llama", "model.layers"), ("gpt2", "transformer.h")])
def test_the_list_of_layers_is_found(family: str, prefix: str) -> None:
    assert layers_of(family)[0] == prefix


def test_lists_of_other_modules_are_not_the_layers() -> None:
    model = build_meta_model(tiny_config("llama"))
    assert find_layers(model, 3) is None
    model.model.layers[1].self_attn.layer_idx = 0
    assert find_layers(model, 4) is None


def test_layers_are_restored_after_the_block() -> None:
    _, layers, _ = layers_of("llama")
    forward = layers[1].forward
    with only_representatives(layers, [0, 0, 0, 0]):
        assert layers[1].forward != forward
    assert layers[1].forward == forward
    assert not layers[0]._forward_hooks
    assert not layers[0]._forward_pre_hooks


class Doubling(torch.nn.Module):
    """A layer that doubles its input."""

    def forward(self, hidden_states: torch.Tensor, extra: object = None, **_: object) -> torch.Tensor:
        return hidden_states * 2


def test_a_layer_with_other_arguments_than_its_representative_is_refused() -> None:
    # Some models compute a tensor for each layer outside of the layers.
    layers = [Doubling(), Doubling()]
    hidden, extra = torch.ones(1, 2, 3), torch.zeros(2)
    with only_representatives(layers, [0, 0]):
        layers[0](hidden, (extra, 1), name=[extra])
        assert layers[1](hidden, (extra, 1), name=[extra]) is hidden
        for arguments in (((extra.clone(), 1), [extra]), ((extra, 2), [extra]), ((extra, 1), []), (None, [extra])):
            with pytest.raises(LayerDedupError, match="layer 1 is called with other tensors than layer 0"):
                layers[1](hidden, arguments[0], name=arguments[1])
    assert torch.equal(layers[1](hidden), hidden * 2)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[ir.Model, ir.Model]:
    """The graph of a model with two kinds of layer: deduplicated, and with all layers traced."""
    directory: Path = tmp_path_factory.mktemp("layers") / "model"
    save_checkpoint(directory, "gemma2")
    source, options = resolve(str(directory)), BuildOptions(quant="none")
    expanded = canonical_graph(source, options).graph
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracer, "find_layers", lambda *_: None)
        patch.setattr(assemble, "trace", tracer.trace)
        whole = canonical_graph(source, options).graph
    return expanded, whole


def test_expanded_graph_has_the_interface_of_the_whole_one(both: tuple[ir.Model, ir.Model]) -> None:
    expanded, whole = both
    for kind in ("inputs", "outputs"):
        values = [[(v.name, v.dtype, len(v.shape or ())) for v in getattr(m.graph, kind)] for m in both]
        assert values[0] == values[1]
    assert [v.name for v in expanded.graph.inputs[2:4]] == ["past.0.key", "past.0.value"]
    assert ops(expanded).count("Attention") == ops(whole).count("Attention") == 4
    assert not {"LayerBegin", "LayerEnd"} & set(ops(expanded))
    windows = [[n.attributes["window"].as_int() for n in m.graph if n.op_type == "Attention"] for m in both]
    assert windows[0] == windows[1]
    assert windows[0][:2] == [8, 0], "two kinds of layer"


def test_expanded_graph_gives_the_values_of_the_whole_one(both: tuple[ir.Model, ir.Model]) -> None:
    rng = np.random.default_rng(0)
    past = {
        v.name: rng.standard_normal((2, v.shape[1], 6, v.shape[3]), dtype=np.float32)  # type: ignore[index, call-overload]
        for v in both[0].graph.inputs[2:]
    }
    # The second sequence is left-padded by two.
    positions = np.array([np.arange(6, 13), np.arange(4, 11)])
    feeds = {"input_ids": rng.integers(0, VOCABULARY, (2, 7)), "position_ids": positions, **past}
    for value, expected in zip(*(run_reference(m, feeds) for m in both), strict=True):  # type: ignore[arg-type]
        np.testing.assert_allclose(value, expected, atol=1e-5)
