"""The sweep over model types tells its classes apart, survives a crash, and its report can be read again."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from families import check, report
from families.__main__ import main
from families.check import Outcome
from families.configs import ROWS
from families.sweep import check_apart, model_types


def test_a_supported_type_is_right() -> None:
    outcome = check.check("llama")
    assert outcome.kind == "right"
    assert 0 < float(outcome.detail) < 1e-4


def test_a_type_that_edgekiln_refuses_has_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ROWS, "llama", {"head_dim": 12})
    outcome = check.check("llama")
    assert outcome.kind == "refused"
    assert "heads of 12 elements are not a multiple of 8" in outcome.detail


def test_an_encoder_is_not_a_decoder() -> None:
    assert check.check("bert").kind == "not a decoder"


def test_a_type_without_a_configuration_has_the_reason_of_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ROWS, "llama", {"num_attention_heads": 5})
    outcome = check.check("llama")
    assert outcome.kind == "not configurable"
    assert "5" in outcome.detail


def test_an_engine_with_other_logits_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "save_model", _with_another_weight(check.save_model))
    outcome = check.check("llama")
    assert outcome.kind == "wrong"
    assert float(outcome.detail) > check.TOLERANCE


def _with_another_weight(save: Any) -> Any:
    def save_changed(directory: Path, model: Any) -> None:
        with torch.no_grad():
            model.model.layers[1].self_attn.k_proj.weight[0] *= 2
        save(directory, model)

    return save_changed


def test_an_exception_that_is_not_edgekilns_is_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise KeyError("layer 3")

    monkeypatch.setattr(check, "build_engine", fail)
    outcome = check.check("llama")
    assert (outcome.kind, outcome.detail) == ("traceback", "KeyError: 'layer 3'")
    assert "in fail" in outcome.log


@pytest.mark.slow
def test_a_type_that_takes_too_long_or_too_much_memory_does_not_end_the_sweep() -> None:
    assert check_apart("llama", timeout=0.1) == Outcome("traceback", "not ready after 0 s")
    assert check_apart("llama", memory=1 << 20).kind in ("traceback", "not configurable")


def test_a_report_can_be_read_again() -> None:
    outcomes = {
        "a": Outcome("right", "3e-07"),
        "b": Outcome("refused", "b has a | in its name"),
        "c": Outcome("not a decoder", "c attends in both directions"),
    }
    text = report.write(outcomes, "5.0.0", "make families")
    assert "| right | 1 |" in text
    read = report.read(text)
    assert {name: outcome.kind for name, outcome in read.items()} == {
        "a": "right",
        "b": "refused",
        "c": "not a decoder",
    }
    changed = {"a": Outcome("wrong", "0.1"), "b": outcomes["b"], "d": Outcome("right", "1e-06")}
    assert report.changes(read, changed) == [
        "a: right -> wrong (0.1)",
        "c: not a decoder -> gone",
        "d: new -> right (1e-06)",
    ]


def test_the_exit_status_tells_of_defects(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for kind, status in (("right", 0), ("refused", 0), ("not configurable", 0), ("wrong", 1), ("traceback", 1)):
        monkeypatch.setattr("families.__main__.sweep", lambda names, _, kind=kind: [(names[0], Outcome(kind, "why"))])
        monkeypatch.setattr(sys, "argv", ["families", "llama", "--out", str(tmp_path / "report.md")])
        assert main() == status
        assert report.read((tmp_path / "report.md").read_text()) == {"llama": Outcome(kind, "why")}


def test_rows_of_single_types_are_replaced_in_a_report_of_the_same_version(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "report.md"
    old = {"gpt2": Outcome("right", "1e-06"), "llama": Outcome("refused", "why")}
    path.write_text(report.write(old, transformers.__version__, "make families"))
    monkeypatch.setattr("families.__main__.sweep", lambda names, _: [(names[0], Outcome("right", "2e-06"))])
    monkeypatch.setattr(sys, "argv", ["families", "llama", "--out", str(path)])
    assert main() == 0
    assert report.read(path.read_text()) == {"gpt2": old["gpt2"], "llama": Outcome("right", "2e-06")}
    path.write_text(report.write(old, "1.0.0", "make families"))
    with pytest.raises(SystemExit, match="2"):
        main()


def test_the_documented_report_has_every_type_and_no_defect() -> None:
    text = (Path(__file__).parents[1] / "docs" / "families.md").read_text()
    outcomes = report.read(text)
    assert not [name for name, outcome in outcomes.items() if outcome.kind in ("wrong", "traceback")]
    if report.version(text) == transformers.__version__:
        assert sorted(outcomes) == model_types()
