"""Write a random checkpoint in bfloat16 tensor by tensor: memory never holds the model.

Values are normal, as of a model before training, so that the tokens of a prompt choose different experts. Those of the
LM head are larger: logits spread as those of trained models, of which a tenth is near the largest.
"""

import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

SHARD_BYTES = 4 << 30
_STD = 0.02
_LOGITS_STD = 4.0
_STACKED = {"experts.gate_up_proj": ("gate_proj", "up_proj"), "experts.down_proj": ("down_proj",)}


def tensors_of(model: torch.nn.Module) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of each tensor of the checkpoint of a model on the meta device, every expert by itself."""
    for name, tensor in model.state_dict().items():
        stacked = next((suffix for suffix in _STACKED if name.endswith(suffix)), None)
        if stacked is None:
            yield name, tuple(tensor.shape)
            continue
        parts = _STACKED[stacked]
        experts, rows, columns = tensor.shape
        prefix = name.removesuffix(stacked)
        for expert in range(experts):
            for part in parts:
                yield f"{prefix}experts.{expert}.{part}.weight", (rows // len(parts), columns)


def write(shape: dict[str, object], directory: Path, seed: int = 0) -> int:
    """Write config.json and shards of safetensors of the given config, without a tokenizer.

    Returns:
        The parameter count.
    """
    config = AutoConfig.for_model(**shape, bos_token_id=0, eos_token_id=0, dtype="bfloat16")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    config.architectures = [type(model).__name__]
    config.save_pretrained(directory)
    generator = torch.Generator().manual_seed(seed)
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    size = 0
    for name, sizes in tensors_of(model):
        if size + 2 * math.prod(sizes) > SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][name] = sizes
        size += 2 * math.prod(sizes)
    files = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        _write_shard(directory / file, shard, generator)
        files |= dict.fromkeys(shard, file)
    count = sum(math.prod(sizes) for shard in shards for sizes in shard.values())
    index = {"metadata": {"total_size": 2 * count}, "weight_map": files}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return count


def _write_shard(path: Path, shard: dict[str, tuple[int, ...]], generator: torch.Generator) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, sizes in shard.items():
        start, end = end, end + 2 * math.prod(sizes)
        header[name] = {"dtype": "BF16", "shape": sizes, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, sizes in shard.items():
            values = torch.empty(sizes, dtype=torch.bfloat16)
            if name.endswith("norm.weight"):
                values.fill_(1)
            else:
                # The LM head's inputs have a mean square of 1.
                std = _LOGITS_STD / math.sqrt(sizes[-1]) if name == "lm_head.weight" else _STD
                values.normal_(std=std, generator=generator)
            file.write(values.view(torch.int16).numpy().data)
