"""Values of config.json and of weights that no model has are refused in one sentence that names them, in no time."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from edgekiln.errors import EdgekilnError, SourceError
from edgekiln.pipeline.build import build_engine
from edgekiln.pipeline.options import BuildOptions
from edgekiln.sources.checkpoint_schema import check_counts, check_types
from edgekiln.sources.resolve import resolve
from support.models import save_checkpoint

NAN, INFINITY = float("nan"), float("inf")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("original")
    save_checkpoint(directory, "llama", num_hidden_layers=1)
    return directory


@pytest.fixture
def checkpoint(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original, tmp_path / "checkpoint")


def edit(directory: Path, **values: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


SIZE = "which must be an integer from 1 to 2147483648"
ROPE = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
REFUSED: list[tuple[str, Any, str]] = [
    ("model_type", {"a": 1}, "model_type {'a': 1}, which must be a text"),
    ("model_type", ["llama"], r"model_type \['llama'\], which must be a text"),
    ("architectures", "LlamaForCausalLM", "architectures 'LlamaForCausalLM', which must be a list of texts"),
    ("auto_map", [], r"auto_map \[\], which must be an object"),
    ("rms_norm_eps", NAN, "rms_norm_eps nan, which must be a finite number"),
    ("rms_norm_eps", INFINITY, "rms_norm_eps inf, which must be a finite number"),
    ("rms_norm_eps", "1e-6", "rms_norm_eps '1e-6', which must be a number that is not negative"),
    ("rms_norm_eps", -1e-6, "rms_norm_eps -1e-06, which must be a number that is not negative"),
    ("attention_dropout", NAN, "attention_dropout nan, which must be a finite number"),
    ("num_hidden_layers", 10**9, "num_hidden_layers 1000000000, and the weights beside it are those of 1 layers"),
    ("num_hidden_layers", 0, f"num_hidden_layers 0, {SIZE}"),
    ("num_hidden_layers", 1.0, f"num_hidden_layers 1.0, {SIZE}"),
    ("num_hidden_layers", True, f"num_hidden_layers True, {SIZE}"),
    ("num_hidden_layers", 10**30, f"num_hidden_layers 10{'0' * 29}, {SIZE}"),
    ("vocab_size", 10**12, f"vocab_size 1000000000000, {SIZE}"),
    ("vocab_size", 321, r"weight of shape \[320, 64\], its configuration asks for \[321, 64\]"),
    ("hidden_size", -64, f"hidden_size -64, {SIZE}"),
    ("head_dim", 0, f"head_dim 0, {SIZE}"),
    ("num_key_value_heads", 3, "num_attention_heads 4, which must be a multiple of num_key_value_heads 3"),
    ("num_key_value_heads", 0, "num_key_value_heads 0, which must be an integer from 1"),
    ("max_position_embeddings", -1, f"max_position_embeddings -1, {SIZE}"),
    ("max_position_embeddings", 10**12, f"max_position_embeddings 1000000000000, {SIZE}"),
    ("eos_token_id", "abc", "eos_token_id 'abc', which must be a token id or a list of them"),
    ("eos_token_id", [[257]], r"eos_token_id \[\[257\]\], which must be a token id"),
    ("eos_token_id", 2**40, "eos_token_id 1099511627776, which must be a token id"),
    ("pad_token_id", -2, "pad_token_id -2, which must be a token id"),
    ("dtype", "float4", "dtype 'float4', which must be the name of a float type"),
    ("torch_dtype", ["float16"], r"torch_dtype \['float16'\], which must be the name of a float type"),
    ("dtype", "int8", "dtype 'int8', which must be the name of a float type"),
    ("dtype", "float8_e4m3fn", "dtype 'float8_e4m3fn', which must be the name of a float type"),
    ("rope_theta", 0, "rope_theta 0, which must be a number more than 0"),
    ("rope_scaling", "linear", "rope_scaling 'linear', which must be an object"),
    ("rope_parameters", {**ROPE, "factor": "2"}, "rope_parameters.factor '2', which must be a number more than 0"),
    ("rope_parameters", {**ROPE, "factor": -1}, "rope_parameters.factor -1, which must be a number more than 0"),
    ("rope_parameters", {**ROPE, "rope_type": 3}, "rope_parameters.rope_type 3, which must be a text"),
    ("rope_parameters", {**ROPE, "rope_type": "none"}, "llama has positions of rope type 'none', which transformers"),
    ("layer_types", ["full_attention", 1], "which must be a list of texts"),
    ("layer_types", "full_attention", "which must be a list of texts"),
    ("sliding_window", 0, "sliding_window 0, which must be at least 1, or null for no window"),
    ("sliding_window", -4, "sliding_window -4, which must be at least 1, or null for no window"),
    ("quantization_config", "int8", "quantization_config 'int8', which must be an object"),
    ("quantization_config", [], r"quantization_config \[\], which must be an object"),
    ("quantization_config", {"quant_method": ["gptq"]}, "quantized with"),
    ("text_config", 3, "text_config 3, which must be an object"),
    ("text_config", {"rms_norm_eps": NAN}, "text_config.rms_norm_eps nan, which must be a finite number"),
    ("hidden_act", "none", "."),
    ("num_labels", 10**9, "num_labels 1000000000, which must be an integer from 0 to 1048576"),
    ("num_attention_heads", 3, r"is not usable: The hidden size \(64\) is not a multiple"),
    ("hidden_act", 0.5, "hidden_act 0.5, which transformers refuses"),
]


@pytest.mark.parametrize(("field", "value", "message"), REFUSED, ids=[f"{row[0]}-{row[1]!r:.20}" for row in REFUSED])
def test_a_value_that_no_model_has_is_named(checkpoint: Path, field: str, value: Any, message: str) -> None:
    edit(checkpoint, **{field: value})
    with pytest.raises(EdgekilnError, match=message) as caught:
        resolve(str(checkpoint))
    assert len(str(caught.value).splitlines()) == 1
    assert "Error" not in str(caught.value)


@pytest.mark.parametrize("chosen", [0, 5])
def test_a_token_has_no_more_experts_than_there_are(tmp_path: Path, chosen: int) -> None:
    save_checkpoint(tmp_path / "model", "mixtral", num_hidden_layers=1)
    edit(tmp_path / "model", num_experts_per_tok=chosen)
    with pytest.raises(
        SourceError, match=rf"num_experts_per_tok {chosen}, which must be from 1 to num_local_experts 4"
    ):
        resolve(str(tmp_path / "model"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sliding_window", None),
        ("pad_token_id", -1),
        ("eos_token_id", [257, 258]),
        ("rms_norm_eps", 0.0),
        ("dtype", "bfloat16"),
        ("torch_dtype", "torch.float16"),
        ("novelty", {"a": [1, {"b": None}]}),
        ("head_dim", None),
        ("rope_parameters", {"rope_type": "linear", "factor": 40, "rope_theta": 10000}),
    ],
)
def test_a_legal_value_is_read(checkpoint: Path, field: str, value: Any) -> None:
    edit(checkpoint, **{field: value})
    resolve(str(checkpoint))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[" * 100_000, "nested deeper than 100 levels"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested deeper than 100 levels"),
        (b"\xef\xbb\xbf{}", "begins with a byte order mark"),
        ('{"model_type": "llama"}'.encode("utf-16"), "is not UTF-8"),
        (b'{"model_type": "\\ud800"}', "half of a surrogate pair"),
        (b"9" * 10_000, "is not valid JSON"),
        (b"", "is not valid JSON"),
    ],
    ids=["deep", "deep-in-object", "bom", "utf-16", "surrogate", "digits", "empty"],
)
@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_text_that_is_no_json_is_one_sentence(checkpoint: Path, name: str, data: bytes, message: str) -> None:
    (checkpoint / name).write_bytes(data)
    with pytest.raises(SourceError, match=message) as caught:
        resolve(str(checkpoint))
    assert name in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def change_tensors(directory: Path, **changes: torch.Tensor) -> None:
    path = directory / "model.safetensors"
    save_file({**load_file(path), **changes}, path, {"format": "pt"})


@pytest.mark.parametrize(
    "name", ["model.norm.weight", "model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight"]
)
@pytest.mark.parametrize("value", [NAN, INFINITY, -INFINITY])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_weights_that_are_not_finite_are_named(checkpoint: Path, name: str, value: float, dtype: torch.dtype) -> None:
    tensor = load_file(checkpoint / "model.safetensors")[name].to(dtype)
    tensor.view(-1)[-1] = value
    change_tensors(checkpoint, **{name: tensor})
    with pytest.raises(SourceError, match=rf"holds {name} with a value that is NaN or infinite: download it again"):
        resolve(str(checkpoint)).weights.read(name)


def test_weights_whose_sum_overflows_are_read(checkpoint: Path) -> None:
    change_tensors(checkpoint, **{"model.norm.weight": torch.full((64,), 3e38)})
    assert resolve(str(checkpoint)).weights.read("model.norm.weight")[0] == torch.tensor(3e38)


@pytest.mark.parametrize("quant", ["none", "int8"])
def test_a_build_of_weights_that_are_not_finite_names_them(checkpoint: Path, tmp_path: Path, quant: str) -> None:
    change_tensors(checkpoint, **{"model.norm.weight": torch.full((64,), NAN)})
    with pytest.raises(SourceError, match=r"holds model\.norm\.weight with 64 values that are NaN or infinite"):
        build_engine(resolve(str(checkpoint)), tmp_path / "engine", BuildOptions(quant=quant))
    assert not (tmp_path / "engine").exists()


@pytest.mark.parametrize(
    "part", ["weight_scale", "weight_scale_inv", "SCB", "qzeros", "scales", "weight_zero_point", "weight.absmax"]
)
def test_a_scale_beside_float_weights_is_refused(checkpoint: Path, part: str) -> None:
    name = f"model.layers.0.mlp.up_proj.{part}"
    change_tensors(checkpoint, **{name: torch.ones(1)})
    with pytest.raises(
        SourceError, match=rf"holds {name}, a part of a quantized weight that its config\.json does not"
    ):
        resolve(str(checkpoint))


def test_a_bias_of_a_module_without_one_is_refused_unless_it_is_0(checkpoint: Path) -> None:
    name = "model.layers.0.self_attn.q_proj.bias"
    change_tensors(checkpoint, **{name: torch.zeros(64)})
    assert resolve(str(checkpoint)).notes == (f"{name} in the checkpoint is not part of LlamaForCausalLM",)
    change_tensors(checkpoint, **{name: torch.ones(64)})
    with pytest.raises(SourceError, match=rf"holds {name}, and its configuration makes .*q_proj without a bias"):
        resolve(str(checkpoint))


def test_layers_beyond_those_of_the_configuration_are_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model", "llama", num_hidden_layers=2)
    edit(tmp_path / "model", num_hidden_layers=1)
    with pytest.raises(SourceError, match=r"holds model\.layers\.1\..* of a layer beyond the 1 of its configuration"):
        resolve(str(tmp_path / "model"))


def test_a_tensor_that_a_layer_shares_with_another_is_noted(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model", "gemma3n_text")
    keys = "model.layers.{}.self_attn.k_proj.weight"
    tensor = load_file(tmp_path / "model" / "model.safetensors")[keys.format(0)]
    change_tensors(tmp_path / "model", **{keys.format(3): tensor})
    resolve(str(tmp_path / "model"))


@pytest.mark.slow
def test_no_default_of_transformers_is_refused(tmp_path: Path) -> None:
    checked = 0
    for model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        try:
            config = CONFIG_MAPPING[model_type]()
        except Exception:  # some have no defaults
            continue
        check_types(json.loads(config.to_json_string(use_diff=False)), tmp_path)
        text = config.get_text_config(decoder=True)
        if getattr(text, "is_heterogeneous", False):  # as when a config.json is read
            text.allow_global_per_layer_attribute_access = True
        check_counts(text, tmp_path)
        checked += 1
    assert checked > 150


def test_many_unused_tensors_are_counted(checkpoint: Path) -> None:
    extra = {f"model.layers.1.{index}.weight": torch.zeros(1) for index in range(10)}
    change_tensors(checkpoint, **extra)
    notes = resolve(str(checkpoint)).notes
    assert [note.split("\n") for note in notes] == [
        ["10 tensors in the checkpoint are not part of LlamaForCausalLM", *sorted(extra)]
    ]
