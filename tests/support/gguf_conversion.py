"""What llama.cpp's converter (convert_hf_to_gguf) writes for a model: names by the gguf package, and its layouts.

Written from the converter's classes, one function a family, and independent of edgekiln's reader.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

import gguf
import numpy as np

Tensor = np.ndarray
Convert = Callable[[str, Tensor, Any], Iterator[tuple[str, Tensor]]]


def converted(architecture: str, state: dict[str, Tensor], config: Any) -> dict[str, Tensor]:
    """The tensors of a file.

    Args:
        architecture: general.architecture.
        state: the state_dict of the transformers model, without tied duplicates.
        config: its configuration.
    """
    kind = next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    layers = next(
        getattr(config, name) for name in ("num_hidden_layers", "n_layer", "n_layers") if hasattr(config, name)
    )
    table = gguf.get_tensor_name_map(kind, layers)
    result = {}
    for name, tensor in state.items():
        for published, changed in CONVERTERS.get(architecture, plain)(name, tensor, config):
            stem, suffix = published, ""
            for end in (".weight", ".bias"):
                # As the converter, look for the whole name first.
                if published.endswith(end) and table.get_name(published) is None:
                    stem, suffix = published.removesuffix(end), end
            mapped = table.get_name(stem)
            if mapped is None and stem.split(".")[0] in ("blk", "output", "token_embd"):
                mapped = stem
            assert mapped is not None, f"{architecture} has no name for {published}"
            result[mapped + suffix] = np.ascontiguousarray(changed)
    return result


def permuted(weight: Tensor, heads: int) -> Tensor:
    """llama.cpp's order of the rows of queries and keys: rotated pairs next to each other."""
    return (
        weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)
    )


def plain(name: str, tensor: Tensor, config: Any) -> Iterator[tuple[str, Tensor]]:
    """Stacked experts get gate and up as two tensors, as their published checkpoints have them."""
    if match := re.fullmatch(r"(.*)\.experts\.gate_up_proj", name):
        half = tensor.shape[1] // 2
        layer = re.findall(r"\.(\d+)\.", name)[0]
        del match
        yield f"model.layers.{layer}.mlp.experts.gate_proj.weight", tensor[:, :half]
        yield f"model.layers.{layer}.mlp.experts.up_proj.weight", tensor[:, half:]
    elif name.endswith(".experts.down_proj"):
        layer = re.findall(r"\.(\d+)\.", name)[0]
        yield f"model.layers.{layer}.mlp.experts.down_proj.weight", tensor
    elif name.endswith("e_score_correction_bias"):
        # Published ERNIE checkpoints have it outside of the gate.
        yield name.removesuffix("_bias").replace("gate.moe_statics", "moe_statics") + ".bias", tensor
    else:
        yield name, tensor


def llama(name: str, tensor: Tensor, config: Any) -> Iterator[tuple[str, Tensor]]:
    if ".q_proj." in name:
        tensor = permuted(tensor, config.num_attention_heads)
    if ".k_proj." in name:
        tensor = permuted(tensor, config.num_key_value_heads)
    yield from plain(name, tensor, config)


def gemma(name: str, tensor: Tensor, config: Any) -> Iterator[tuple[str, Tensor]]:
    yield name, tensor + 1 if name.endswith("norm.weight") else tensor


def fused_heads(name: str, tensor: Tensor, config: Any) -> Iterator[tuple[str, Tensor]]:
    """GPT-NeoX and BLOOM: query, key and value of each head become those of all heads."""
    heads = config.num_attention_heads
    if "query_key_value" in name:
        by_head = tensor.reshape(heads, 3, tensor.shape[0] // heads // 3, *tensor.shape[1:])
        tensor = np.concatenate([by_head[:, part].reshape(-1, *tensor.shape[1:]) for part in range(3)])
    yield name.replace("transformer.", ""), tensor


def granite(name: str, tensor: Tensor, config: Any) -> Iterator[tuple[str, Tensor]]:
    experts = bool(getattr(config, "num_local_experts", 0))
    layer = "".join(re.findall(r"\.(\d+)\.", name)[:1])
    if name.endswith("block_sparse_moe.router.weight"):
        yield f"blk.{layer}.ffn_gate_inp.weight", tensor
    elif name.endswith("shared_mlp.input_linear.weight"):
        kind = "_shexp" if experts else ""
        gate, up = np.split(tensor, 2)
        yield f"blk.{layer}.ffn_gate{kind}.weight", gate
        yield f"blk.{layer}.ffn_up{kind}.weight", up
    elif name.endswith("shared_mlp.output_linear.weight"):
        yield f"blk.{layer}.ffn_down{'_shexp' if experts else ''}.weight", tensor
    elif ".mamba." in name:
        yield from mamba2(name, tensor, config)
    else:
        yield from llama(name, tensor, config)


def mamba(name: str, tensor: Tensor, config: Any) -> Iterator[tuple[str, Tensor]]:
    if name.endswith(".A_log"):
        tensor = -np.exp(tensor)
    elif name.endswith("conv1d.weight"):
        tensor = tensor.squeeze(1)
    yield name, tensor


def mamba2(name: str, tensor: Tensor, config: Any) -> Iterator[tuple[str, Tensor]]:
    groups = next(getattr(config, field) for field in ("mamba_n_groups", "n_groups") if hasattr(config, field))
    if name.endswith((".A_log", ".D")):
        tensor = tensor.reshape(-1, 1)
    elif name.endswith((".mixer.norm.weight", ".mamba.norm.weight")):
        tensor = tensor.reshape(groups, -1)
    elif name.endswith(".dt_bias"):
        name = name.removesuffix("dt_bias") + "dt_proj.bias"
    yield from mamba(name, tensor, config)


def lfm2(name: str, tensor: Tensor, config: Any) -> Iterator[tuple[str, Tensor]]:
    yield name, tensor.squeeze(1) if "conv.conv" in name else tensor


def jamba(name: str, tensor: Tensor, config: Any) -> Iterator[tuple[str, Tensor]]:
    for published, changed in plain(name, tensor, config):
        yield from mamba(published, changed, config)


def falcon_h1(name: str, tensor: Tensor, config: Any) -> Iterator[tuple[str, Tensor]]:
    """The converter folds all multipliers into the weights."""
    inner, states = config.mamba_d_ssm, config.mamba_n_groups * config.mamba_d_state
    factors = {
        "down_proj": config.mlp_multipliers[1],
        "gate_proj": config.mlp_multipliers[0],
        "k_proj": config.key_multiplier * config.attention_in_multiplier,
        "q_proj": config.attention_in_multiplier,
        "v_proj": config.attention_in_multiplier,
        "o_proj": config.attention_out_multiplier,
        "out_proj": config.ssm_out_multiplier,
        "in_proj": config.ssm_in_multiplier,
        "lm_head": config.lm_head_multiplier,
        "embed_tokens": config.embedding_multiplier,
    }
    module = name.split(".")[-2]
    tensor = tensor * np.float32(factors.get(module, 1))
    if module == "in_proj":
        ends = np.cumsum([inner, inner, states, states])
        parts = zip(np.split(tensor, ends), config.ssm_multipliers, strict=True)
        tensor = np.concatenate([part * np.float32(factor) for part, factor in parts])
    yield from mamba2(name, tensor, config)


def gpt_oss(name: str, tensor: Tensor, config: Any) -> Iterator[tuple[str, Tensor]]:
    if name.endswith("sinks"):
        yield f"{name}.weight", tensor
    elif name.endswith("_bias") and "gate_up" in name:
        yield name.replace("gate_up_proj_bias", "gate_proj.bias"), tensor[:, ::2]
        yield name.replace("gate_up_proj_bias", "up_proj.bias"), tensor[:, 1::2]
    elif name.endswith("down_proj_bias"):
        yield name.replace("_bias", ".bias"), tensor
    elif name.endswith("gate_up_proj"):
        tensor = tensor.swapaxes(1, 2)
        yield name.replace("gate_up_proj", "gate_proj.weight"), tensor[:, ::2]
        yield name.replace("gate_up_proj", "up_proj.weight"), tensor[:, 1::2]
    elif name.endswith("down_proj"):
        yield f"{name}.weight", tensor.swapaxes(1, 2)
    else:
        yield name, tensor


def llama4(name: str, tensor: Tensor, config: Any) -> Iterator[tuple[str, Tensor]]:
    if name.endswith("gate_up_proj"):
        gate, up = np.split(tensor.swapaxes(1, 2), 2, axis=1)
        yield name.replace("gate_up_proj", "gate_proj.weight"), gate
        yield name.replace("gate_up_proj", "up_proj.weight"), up
    elif name.endswith("down_proj"):
        yield f"{name}.weight", tensor.swapaxes(1, 2)
    else:
        yield name, tensor


def deepseek2(name: str, tensor: Tensor, config: Any) -> Iterator[tuple[str, Tensor]]:
    if name.endswith("kv_b_proj.weight"):
        by_head = tensor.reshape(config.num_attention_heads, -1, tensor.shape[1])
        keys, values = np.split(by_head, [config.qk_nope_head_dim], axis=1)
        yield name.replace("kv_b_proj", "k_b_proj"), keys.swapaxes(1, 2)
        yield name.replace("kv_b_proj", "v_b_proj"), values
    else:
        yield from plain(name, tensor, config)


def lfm2moe(name: str, tensor: Tensor, config: Any) -> Iterator[tuple[str, Tensor]]:
    if name.endswith(".expert_bias"):
        yield f"{name}.bias", tensor
    elif ".experts." in name:
        layer = re.findall(r"\.(\d+)\.", name)[0]
        for published, part in plain(name, tensor, config):
            kind = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}[published.split(".")[-2]]
            yield f"layers.{layer}.feed_forward.experts.{kind}.weight", part
    else:
        yield from lfm2(name, tensor, config)


def qwen3next(name: str, tensor: Tensor, config: Any) -> Iterator[tuple[str, Tensor]]:
    layer = "".join(re.findall(r"\.(\d+)\.", name)[:1])
    if name.endswith("in_proj_qkvz.weight"):
        heads, key, value = config.linear_num_key_heads, config.linear_key_head_dim, config.linear_value_head_dim
        values = config.linear_num_value_heads // heads * value
        by_head = tensor.reshape(heads, -1, tensor.shape[1])
        q, k, v, z = np.split(by_head, np.cumsum([key, key, values]), axis=1)
        columns = tensor.shape[1]
        yield f"blk.{layer}.attn_qkv.weight", np.concatenate([part.reshape(-1, columns) for part in (q, k, v)])
        yield f"blk.{layer}.attn_gate.weight", z.reshape(-1, columns)
    elif name.endswith("dt_bias"):
        yield name.removesuffix("dt_bias") + "dt_proj.bias", tensor
    elif name.endswith("norm.weight") and not name.endswith("linear_attn.norm.weight"):
        yield name, tensor + 1
    elif name.endswith("shared_expert_gate.weight"):
        yield name, tensor[0]
    else:
        for published, part in plain(name, tensor, config):
            yield from mamba(published, part, config)


def qwen35(name: str, tensor: Tensor, config: Any) -> Iterator[tuple[str, Tensor]]:
    """Value heads change from groups of a key head to tiles of all key heads."""
    keys, values, size = config.linear_num_key_heads, config.linear_num_value_heads, config.linear_value_head_dim

    def tiled(weight: Tensor, width: int) -> Tensor:
        return weight.reshape(keys, values // keys, width, *weight.shape[1:]).swapaxes(0, 1).reshape(weight.shape)

    first = 2 * keys * config.linear_key_head_dim
    if ".in_proj_qkv." in name or ".conv1d." in name:
        tensor = np.concatenate([tensor[:first], tiled(tensor[first:], size)])
    elif ".in_proj_z." in name:
        tensor = tiled(tensor, size)
    elif ".in_proj_a." in name or ".in_proj_b." in name or name.endswith((".A_log", ".dt_bias")):
        tensor = tiled(tensor, 1)
    elif ".linear_attn.out_proj." in name:
        tensor = tiled(tensor.T, size).T
    yield from qwen3next(name, tensor, config)


def nemotron_h(name: str, tensor: Tensor, config: Any) -> Iterator[tuple[str, Tensor]]:
    """Published checkpoints say backbone."""
    layer = "".join(re.findall(r"\.(\d+)\.", name)[:1])
    if ".mixer.experts." in name:
        yield f"model.layers.{layer}.mlp.experts.{name.rsplit('.', maxsplit=1)[-1]}.weight", tensor
        return
    name = name.replace("e_score_correction_bias", "e_score_correction.bias")
    if name.startswith("model."):
        name = f"backbone.{name.removeprefix('model.')}"
    for published, changed in mamba2(name, tensor, config):
        yield published.replace("mixer.dt_proj.bias", "mixer.dt.bias"), changed


CONVERTERS: dict[str, Convert] = {
    "mistral3": llama,
    "minicpm": llama,
    "nemotron_h": nemotron_h,
    "nemotron_h_moe": nemotron_h,
    **dict.fromkeys(("qwen35", "qwen35moe"), qwen35),
    "deepseek2": deepseek2,
    "llama4": llama4,
    "lfm2moe": lfm2moe,
    "qwen3next": qwen3next,
    **dict.fromkeys(("llama", "olmo", "arcee", "smollm3", "internlm2", "xverse", "baichuan"), llama),
    **dict.fromkeys(("granite", "granitemoe", "granitehybrid"), granite),
    **dict.fromkeys(("gptneox", "bloom"), fused_heads),
    "gemma": gemma,
    "mamba": mamba,
    "mamba2": mamba2,
    "lfm2": lfm2,
    "jamba": jamba,
    "falcon-h1": falcon_h1,
    "gpt-oss": gpt_oss,
}
