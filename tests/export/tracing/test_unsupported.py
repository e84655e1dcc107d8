"""Unsupported models get an error that names the model and the unsupported part."""

from pathlib import Path
from typing import Any

import pytest
from transformers import CONFIG_MAPPING

from edgekiln.errors import UnsupportedModelError
from edgekiln.export.tracing.meta_model import build_meta_model
from edgekiln.export.tracing.trace import layer_caches
from edgekiln.pipeline.build import build_engine
from edgekiln.pipeline.options import BuildOptions
from edgekiln.sources.resolve import resolve
from support.models import save_checkpoint, tiny_config

# Model type, config, what the message must say.
CASES: list[tuple[str, dict[str, Any], str]] = [
    ("gemma3_text", {"use_bidirectional_attention": True}, "gemma3_text overlays its own attention mask"),
    ("bert", {"is_decoder": False}, "bert attends in both directions"),
    ("blt", {}, "blt groups bytes into patches, whose lengths depend on the text"),
    ("deepseek_v4", {}, "deepseek_v4 attends to compressed keys and values, each of several tokens"),
    ("inkling2_text", {}, "inkling2_text adds a bias to each score that depends on the distance and on the query"),
]
_PLAIN: list[tuple[str, dict[str, Any], str]] = [
    ("xlm", {"emb_dim": 64, "n_layers": 2, "n_heads": 4}, "xlm computes attention by itself and not through"),
    ("cpmant", {"num_hidden_layers": 2}, "cpmant computes attention by itself and not through"),
    ("t5", {"d_model": 64, "num_heads": 4, "num_layers": 2}, "transformers has no causal language model for 't5'"),
]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        *(pytest.param(tiny_config(name, **options), message, id=name) for name, options, message in CASES),
        *(pytest.param(CONFIG_MAPPING[name](**options), message, id=name) for name, options, message in _PLAIN),
    ],
)
def test_the_unsupported_part_is_named(config: Any, message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        layer_caches(build_meta_model(config))
    assert len(str(caught.value).splitlines()) == 1


def test_a_refused_build_leaves_no_files(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model", "gemma3_text", use_bidirectional_attention=True)
    with pytest.raises(UnsupportedModelError, match="overlays its own attention mask"):
        build_engine(resolve(str(tmp_path / "model")), tmp_path / "engine", BuildOptions())
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_unsupported_head_size_is_named(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model", "llama", head_dim=12, num_hidden_layers=1)
    with pytest.raises(UnsupportedModelError, match="heads of 12 elements are not a multiple of 8"):
        build_engine(resolve(str(tmp_path / "model")), tmp_path / "engine", BuildOptions(quant="none"))
    assert not (tmp_path / "engine").exists()


def test_the_length_up_to_which_doge_is_exact_is_named(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model", "doge", keep_window_size=16)
    with pytest.raises(UnsupportedModelError, match=r"doge attends to the 16 keys .* at most --max-length 16"):
        build_engine(resolve(str(tmp_path / "model")), tmp_path / "engine", BuildOptions(max_length=17))
