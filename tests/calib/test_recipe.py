"""Recipes: reading files, the scheme of each layer, and one sentence for each mistake."""

from pathlib import Path

import pytest

from edgekiln.calib.formats.scheme import Scheme
from edgekiln.calib.presets import PRESETS, preset
from edgekiln.calib.quantizers.base import METHODS
from edgekiln.calib.recipe import LayerSpec, Override, Recipe, read_recipe
from edgekiln.errors import RequestError, UnsupportedModelError

ATTENTION, FEED_FORWARD = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj"


def write(directory: Path, text: str) -> Path:
    path = directory / "recipe.yaml"
    path.write_text(text)
    return path


def test_later_overrides_win_and_keep_what_they_do_not_name(tmp_path: Path) -> None:
    recipe = read_recipe(
        write(
            tmp_path,
            "method: gptq\nsmoothquant: 0.5\ndefault: {bits: 4, group_size: 64, symmetric: false}\n"
            "overrides:\n"
            "- {match: '*.mlp.*', bits: 8}\n"
            "- {match: '*.layers.1.*', symmetric: true}\n"
            "- {match: '*.layers.2.*', skip: true}\n"
            "- {match: '*.layers.3.*', group_size: channel}\n",
        )
    )
    assert (recipe.method, recipe.smoothquant, recipe.calibrates) == ("gptq", 0.5, True)
    assert recipe.scheme(ATTENTION, 576) == Scheme(4, 64, False, "none")
    assert recipe.scheme(FEED_FORWARD, 576) == Scheme(8, 64, True, "none")
    assert recipe.scheme("model.layers.2.mlp.up_proj", 576) is None
    assert recipe.scheme("model.layers.3.mlp.up_proj", 576) == Scheme(8, None, True, "int8-per-token")


def test_a_later_override_quantizes_a_skipped_layer() -> None:
    overrides = (Override(match="*", skip=True), Override(match="*.mlp.*", bits=4, group_size=32))
    recipe = Recipe(default=None, overrides=overrides)
    assert recipe.scheme(ATTENTION, 576) is None
    assert recipe.scheme(FEED_FORWARD, 576) == Scheme(4, 32, True, "none")


@pytest.mark.parametrize(
    ("wanted", "width", "used"),
    [(32, 576, 32), (64, 576, 64), (128, 576, 64), (128, 1536, 128), (128, 96, 32), (64, 128, 64)],
)
def test_group_falls_back_to_the_next_smaller_that_divides(wanted: int, width: int, used: int) -> None:
    assert preset("int4", wanted).scheme(ATTENTION, width) == Scheme(4, used, False, "none")


def test_width_that_no_group_divides_is_named() -> None:
    with pytest.raises(UnsupportedModelError, match="100 wide"):
        preset("int4").scheme(ATTENTION, 100)
    with pytest.raises(UnsupportedModelError, match="100 wide"):
        preset("int8").scheme("embed", 100, "embedding")
    assert preset("int8").scheme(ATTENTION, 100) == Scheme(8, None, True, "int8-per-token")


@pytest.mark.parametrize(("name", "group_size"), [*((name, None) for name in PRESETS if name != "none"), ("int4", 128)])
def test_embedding_and_head_keep_8_bits_in_small_groups(name: str, group_size: int | None) -> None:
    recipe = preset(name, group_size)
    for kind in ("embedding", "head"):
        assert recipe.scheme("lm_head", 576, kind) == Scheme(8, 32, False, "none")  # type: ignore[arg-type]
    skipping = recipe.model_copy(update={"overrides": (Override(match="lm_head", skip=True),)})
    assert skipping.scheme("lm_head", 576, "head") is None
    assert skipping.scheme("model.embed_tokens", 576, "embedding") is not None


def test_none_leaves_everything_in_floating_point() -> None:
    recipe = preset("none")
    assert recipe.scheme(ATTENTION, 100) is None
    assert recipe.scheme("lm_head", 100, "head") is None
    assert not recipe.calibrates


def test_presets_have_names_and_group_sizes() -> None:
    with pytest.raises(RequestError, match="int3"):
        preset("int3")
    with pytest.raises(RequestError, match="48"):
        preset("int4", 48)
    with pytest.raises(RequestError, match="quant int8 has no groups: leave the group size of 64 out"):
        preset("int8", 64)


def test_a_pattern_must_match_something() -> None:
    recipe = Recipe(default=LayerSpec(bits=4, group_size=32), overrides=(Override(match="*.ffn.*", bits=8),))
    with pytest.raises(RequestError, match=r"'\*.ffn.\*' matches no layer"):
        recipe.check_names([ATTENTION, FEED_FORWARD])
    recipe.check_names([ATTENTION, "model.layers.0.ffn.up"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not a recipe: it must begin"),
        ("- 4\n", "is not a recipe: it must begin"),
        ("default: {bits: 4", "is not valid YAML"),
        ("method: gptq\n", "default: Field required"),
        ("default: {bits: 4, group_size: 32}\nsmoth: 0.5\n", "smoth: Extra inputs"),
        ("default: {bits: 4, group_size: 32, group: 3}\n", "default.group: Extra inputs"),
        ("default: {bits: 3, group_size: 32}\n", "default.bits: Input should be 4 or 8"),
        ("default: {bits: 4, group_size: 48}\n", "group_size must be 32, 64 or 128, got 48"),
        ("default: {bits: 4}\n", "one scale per channel"),
        (
            "method: nearest\ndefault: {bits: 4, group_size: 32}\n",
            f"method: must be one of {', '.join(METHODS)}, got nearest",
        ),
        ("default: {bits: 8, group_size: 32, activation: int8-per-token}\n", "groups take activation: none"),
        ("default: {bits: 4, group_size: 32}\nsmoothquant: 2\n", "smoothquant: Input should be less than"),
        ("default: {bits: 4, group_size: 32}\noverrides: [{bits: 8}]\n", "overrides.0.match: Field required"),
        ("default:\noverrides: [{match: a, symmetric: true}]\n", "bits: Field required"),
        (b"default: \xff\n", "is not UTF-8 text"),
    ],
)
def test_a_bad_file_gets_one_sentence(tmp_path: Path, text: str | bytes, said: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RequestError) as caught:
        read_recipe(path)
    message = str(caught.value)
    assert str(path) in message
    assert said in message
    assert "\n" not in message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="No such file"):
        read_recipe(tmp_path / "recipe.yaml")
