"""The table of quantizers: what recipes, presets and calibration derive from it."""

import subprocess
import sys

import pytest

from edgekiln.calib.data.options import FEW_WINDOWS, MANY_WINDOWS
from edgekiln.calib.limits import Limits
from edgekiln.calib.presets import PRESETS, preset
from edgekiln.calib.quantizers.base import METHODS, QUANTIZERS, active_quantizers, required_windows
from edgekiln.calib.recipe import LayerSpec, Recipe

NONE = Limits()


def test_every_quantizer_can_be_imported() -> None:
    for name, entry in QUANTIZERS.items():
        assert entry.name == name
        assert (entry.load() is None) == (entry.function is None)
        assert (entry.applies is None) == (entry.stage == "method")


def test_presets_name_methods_of_the_table() -> None:
    assert {"rtn", "gptq", "awq"} <= set(METHODS)
    assert {recipe.method for recipe in PRESETS.values()} <= set(METHODS)
    for name in METHODS:
        assert (f"int4-{name}" in PRESETS) == QUANTIZERS[name].preset


@pytest.mark.parametrize(
    ("recipe", "limits", "names", "windows"),
    [
        (preset("int4"), NONE, [], 0),
        (preset("int8"), NONE, ["smoothquant"], FEW_WINDOWS),
        (preset("int8-static"), NONE, ["smoothquant", "static_activations"], FEW_WINDOWS),
        (preset("int4-gptq"), NONE, ["gptq"], MANY_WINDOWS),
        (Recipe(method="awq", default=LayerSpec(bits=4, group_size=32)), NONE, ["awq"], MANY_WINDOWS),
        (preset("int8"), Limits(max_kl=0.1), ["smoothquant", "mixed_precision"], MANY_WINDOWS),
    ],
)
def test_active_quantizers_of_a_recipe(recipe: Recipe, limits: Limits, names: list[str], windows: int) -> None:
    assert [entry.name for entry in active_quantizers(recipe, limits)] == names
    assert required_windows(recipe, limits) == windows


def test_the_table_imports_nothing_heavy() -> None:
    program = (
        "import sys, edgekiln.calib.presets\n"
        "print([name for name in ('torch', 'transformers', 'llmcompressor', 'onnx') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
