"""AWQ through llm-compressor: scaled weights compute the same function."""

from pathlib import Path

import numpy as np
import pytest
import torch

from edgekiln.calib.evaluation.hf_reference import load_model
from edgekiln.calib.formats.scheme import Scheme
from edgekiln.calib.quantizers.awq import awq
from edgekiln.errors import EdgekilnError
from edgekiln.sources.resolve import resolve
from support.models import VOCABULARY, save_checkpoint, tiny_model


def silent(_step: str, _done: float) -> None:
    pass


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(EdgekilnError, match=r"awq needs llm-compressor: `pip install 'edgekiln\[calib\]'`"):
        awq(tiny_model("llama"), {}, np.zeros((1, 8), dtype=np.int64), silent)


@pytest.mark.slow
@pytest.mark.llm_compressor
def test_awq_changes_weights_and_not_what_the_model_computes(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model", "llama", num_hidden_layers=1)
    source = resolve(str(tmp_path / "model"))
    model, original = load_model(source), load_model(source)
    names = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)][:-1]
    windows = np.random.default_rng(0).integers(0, VOCABULARY, (4, 32))
    floats = awq(model, dict.fromkeys(names, Scheme(4, 32, False, "none")), windows, silent)
    parameters = dict(original.named_parameters())
    assert any(not torch.equal(parameters[name], value) for name, value in floats.items())
    ids = torch.from_numpy(windows)
    expected = original(input_ids=ids).logits
    with torch.no_grad():
        for name, value in floats.items():
            parameters[name].copy_(value)
    torch.testing.assert_close(original(input_ids=ids).logits, expected, atol=1e-4, rtol=1e-4)
