"""Builds say which parameters stay in floating point, and refuse to with `strict`."""

from pathlib import Path

import pytest

from edgekiln.calib.presets import preset
from edgekiln.calib.quantization_plan import plan_quantization
from edgekiln.calib.recipe import Override, Recipe
from edgekiln.calib.unquantized import check_unquantized
from edgekiln.errors import RequestError
from edgekiln.pipeline.build import build_engine
from edgekiln.pipeline.options import BuildOptions
from edgekiln.sources.resolve import resolve
from support.models import save_checkpoint, tiny_model

INT4 = preset("int4")
SKIPPED = INT4.model_copy(update={"overrides": (Override(match="*.experts.*", skip=True),)})
# Tiny models have many parameters in norms and routers.
WIDE = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2}


def notes(family: str, recipe: Recipe, **options: int) -> list[str]:
    model = tiny_model(family, **options)
    plan = plan_quantization(model, recipe)
    check_unquantized(model, recipe, plan)
    return [note for note in plan.notes if "stay in floating point" in note]


@pytest.mark.parametrize("family", ["llama", "qwen3_moe", "gpt_oss"])
def test_norms_routers_and_biases_are_not_worth_a_note(family: str) -> None:
    assert not notes(family, INT4, **WIDE)
    assert not notes(family, preset("none"), **WIDE)


def test_experts_that_a_recipe_skips_are_named() -> None:
    (note,) = notes("qwen3_moe", SKIPPED, **WIDE)
    assert "model.layers.*.mlp.experts.gate_up_proj (" in note
    assert note.index("gate_up_proj") < note.index("down_proj"), "the largest come first"
    assert note.count("the recipe skips it") == 2
    share = int(note.partition("%")[0])
    sizes = {name: value.numel() for name, value in tiny_model("qwen3_moe", **WIDE).named_parameters()}
    left = sum(size for name, size in sizes.items() if ".experts." in name or "norm" in name or ".gate." in name)
    assert share == round(100 * left / sum(sizes.values()))


def test_widths_that_no_group_divides_are_named() -> None:
    (note,) = notes("llama", INT4, **WIDE | {"intermediate_size": 500})
    assert "model.layers.*.mlp.down_proj (" in note
    assert "no group size divides its width" in note


def test_weights_that_are_no_linear_layers_are_named() -> None:
    model = tiny_model("recurrent_gemma")
    plan = plan_quantization(model, INT4)
    check_unquantized(model, INT4, plan)
    assert any("rg_lru" in note and "it is not the weight of a linear layer" in note for note in plan.notes)


def test_parameters_of_modules_that_are_not_called_do_not_count() -> None:
    model = tiny_model("qwen3_moe", **WIDE)
    plan = plan_quantization(model, SKIPPED)
    called = [name for name, _ in model.named_modules() if not name.endswith((".mlp", ".experts"))]
    check_unquantized(model, SKIPPED, plan, called)
    assert not [note for note in plan.notes if "experts" in note]


@pytest.mark.parametrize("method", ["rtn", "gptq"])
def test_strict_refuses_before_anything_is_read_or_written(tmp_path: Path, method: str) -> None:
    save_checkpoint(tmp_path / "model", "qwen3_moe", **WIDE)
    source = resolve(str(tmp_path / "model"))
    recipe = SKIPPED.model_copy(update={"method": method})

    def refuse(_name: str) -> None:
        raise AssertionError("a weight is read")

    source.weights.read = refuse  # type: ignore[method-assign, assignment]
    with pytest.raises(RequestError, match=r"% of the parameters stay in floating point: .*without --strict$"):
        build_engine(source, tmp_path / "engine", BuildOptions(quant="mine", recipe=recipe, strict=True))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_strict_builds_what_is_quantized(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model", "qwen3_moe", **WIDE)
    build_engine(resolve(str(tmp_path / "model")), tmp_path / "engine", BuildOptions(quant="int4", strict=True))
