"""Mutated files of a Hugging Face checkpoint: it is resolved, and some are built, or refused in one sentence."""

import json
import shutil
import struct
from pathlib import Path
from random import Random
from typing import Any

import pytest
import transformers

from edgekiln.pipeline.build import build_engine
from edgekiln.pipeline.options import BuildOptions
from edgekiln.sources.resolve import resolve
from support.fuzzing import Fuzzer
from support.models import save_checkpoint
from support.mutations import mutate_bytes, mutate_json

pytestmark = pytest.mark.slow
# A build traces the model, which takes a hundred times as long as to resolve it.
BUILD_ONE_IN = 60
# The command line keeps the warnings of transformers and torch from the terminal.
IGNORED = (UserWarning, FutureWarning, DeprecationWarning)

_ROPE = [{"rope_type": kind, "factor": 2.0} for kind in ("linear", "dynamic", "yarn", "longrope", "llama3", "none")]
CONFIG_FIELDS: dict[str, Any] = {
    "rope_scaling": [*_ROPE, {"type": "linear", "factor": -1}, {"rope_type": "yarn", "factor": "2"}],
    "rope_parameters": [*_ROPE, {"rope_theta": 0.0, "rope_type": "default"}],
    "rope_theta": [1e4, 0],
    "quantization_config": [{"quant_method": kind, "bits": 4} for kind in ("gptq", "awq", "fp8", "bitsandbytes", "x")],
    "text_config": [{"model_type": "llama"}, {"model_type": "t5"}],
    "layer_types": [["full_attention"], ["sliding_attention"] * 2, ["linear_attention"]],
    "architectures": [["LlamaModel"], ["BertForMaskedLM"]],
    "auto_map": [{"AutoConfig": "configuration_x.XConfig"}],
    "model_type": ["qwen3", "gemma3_text", "t5", "bert", "gpt2", "mamba", "qwen2_vl", "mixtral", "LLAMA"],
    "is_encoder_decoder": [True],
    "sliding_window": [4, 0],
    "head_dim": [16, 17, 0],
    "hidden_act": ["gelu", "relu6", "none"],
    "attention_bias": [True],
    "torch_dtype": ["float16", "int8", "float4"],
    "dtype": ["bfloat16", "none"],
    "attn_implementation": ["flash_attention_2"],
    "num_local_experts": [4],
    "pruned_heads": [{"0": [1]}],
    "pretraining_tp": [2],
    "vocab_size": [321, 10**12],
    "num_hidden_layers": [2, 10**9],
    "max_position_embeddings": [10**9, 10**12],
}
GENERATION_FIELDS: dict[str, Any] = {
    "do_sample": [True, "yes"],
    "temperature": [0.0, 1e-6, -1.0],
    "top_k": [0, 50, 2**40],
    "top_p": [0.0, 1.5],
    "min_p": [0.1, 2],
    "repetition_penalty": [1.1, 0, -2],
    "eos_token_id": [[257, 259], [], [[1]], 10**6, -1],
    "pad_token_id": [320, -1],
    "bos_token_id": [10**6],
    "max_length": [20],
    "stop_strings": ["x", ["x"]],
    "suppress_tokens": [[1]],
}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with one layer."""
    transformers.logging.set_verbosity_error()
    directory = tmp_path_factory.mktemp("original")
    save_checkpoint(directory, "llama", num_hidden_layers=1)
    # Imports libraries, which takes seconds.
    build_engine(resolve(str(directory)), directory.parent / "warm-up", BuildOptions(quant="none"))
    return directory


@pytest.fixture
def checkpoint(original: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return shutil.copytree(original, tmp_path / "checkpoint")


def read_all(checkpoint: Path) -> None:
    weights = resolve(str(checkpoint)).weights
    for name in weights.keys():  # noqa: SIM118 - no mapping
        weights.read(name)


def build(fuzzer: Fuzzer, checkpoint: Path, random: Random) -> None:
    """Resolve the checkpoint, and build an engine of it now and then."""
    source = resolve(str(checkpoint))
    if random.randrange(BUILD_ONE_IN) == 0:
        fuzzer.allow(seconds=30)
        engine = checkpoint.parent / "engine"
        shutil.rmtree(engine, ignore_errors=True)
        build_engine(source, engine, BuildOptions(quant="none"))


def fuzz_json(fuzzer: Fuzzer, checkpoint: Path, name: str, fields: dict[str, Any]) -> None:
    path = checkpoint / name
    document = json.loads(path.read_text())

    def case(random: Random) -> None:
        path.write_bytes(mutate_json(document, random, fields))
        build(fuzzer, checkpoint, random)

    fuzzer.run(case, ignored_warnings=IGNORED)


def test_config(fuzzer: Fuzzer, checkpoint: Path) -> None:
    fuzz_json(fuzzer, checkpoint, "config.json", CONFIG_FIELDS)


def test_generation_config(fuzzer: Fuzzer, checkpoint: Path) -> None:
    (checkpoint / "generation_config.json").write_text(
        json.dumps({"do_sample": True, "temperature": 0.6, "top_p": 0.9, "eos_token_id": [257]})
    )
    fuzz_json(fuzzer, checkpoint, "generation_config.json", GENERATION_FIELDS)


def test_safetensors(fuzzer: Fuzzer, checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header, tensors = data[8 : 8 + length], data[8 + length :]
    document = json.loads(header)
    fields: dict[str, Any] = {
        "__metadata__": [{"format": "np"}, {"format": "xpu"}],
        "lm_head.weight_scale": [{"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}],
        "model.layers.1.mlp.up_proj.weight": [{"dtype": "I8", "shape": [4], "data_offsets": [0, 4]}],
    }

    def case(random: Random) -> None:
        changed = header if random.random() < 0.1 else _changed_header(document, random, fields)
        size = len(changed)
        if random.random() < 0.1:
            size = random.choice([0, 1, size - 1, size + 1, 2**31, 2**63, 2**64 - 1])
        rest = mutate_bytes(tensors, random) if random.random() < 0.1 else tensors
        path.write_bytes(struct.pack("<Q", size) + changed + rest)
        read_all(checkpoint)

    fuzzer.run(case, ignored_warnings=IGNORED)


def _changed_header(document: dict[str, Any], random: Random, fields: dict[str, Any]) -> bytes:
    """A header with a dtype, shape, offset, name or any value changed."""
    if random.random() < 0.5:
        return mutate_json(document, random, fields)
    changed = {name: dict(entry) for name, entry in document.items()}
    name = random.choice([name for name in changed if name != "__metadata__"])
    entry = changed[name]
    match random.randrange(4):
        case 0:
            entry["dtype"] = random.choice(["F64", "F16", "BF16", "I8", "U8", "I32", "BOOL", "F8_E4M3", "F4", "C64"])
        case 1:
            entry["shape"] = random.choice([[], [0], entry["shape"][::-1], [*entry["shape"], 1], [1, *entry["shape"]]])
        case 2:
            begin, end = entry["data_offsets"]
            entry["data_offsets"] = random.choice([[end, begin], [begin, end + 4], [0, end - begin], [-1, end]])
        case 3:
            changed[random.choice(["model.norm.weight", "x", name + "_scale", "model." + name])] = changed.pop(name)
    return json.dumps(changed).encode()
