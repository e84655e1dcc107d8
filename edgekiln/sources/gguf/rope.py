"""The RoPE parameters of a GGUF file, with llama.cpp's defaults."""

from typing import Any

import torch
from transformers import AutoConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from edgekiln.errors import SourceError, UnsupportedModelError
from edgekiln.sources.gguf.metadata import Metadata

ROPE_FREQUENCIES = "rope_freqs.weight"
LONGROPE_FACTORS = ("rope_factors_long.weight", "rope_factors_short.weight")
# llama.cpp's rope_freq_base, also that of sliding-window layers.
DEFAULT_THETA = 10000.0
# RoPE scaling of all published Llama 3 models, of which only the factor differs (8 or 32), and of Llama 4.
_LLAMA3_ROPE = tuple(
    {"low_freq_factor": 1.0, "high_freq_factor": high, "original_max_position_embeddings": 8192} for high in (4.0, 1.0)
)


def rope_parameters(metadata: Metadata, head_dim: int, positions: int, *, mscale: bool = False) -> dict[str, Any]:
    """Read transformers' `rope_parameters` from the keys "rope.*" and the tensor of frequency divisors.

    A scaling factor without a type is linear, as in llama.cpp.

    Args:
        metadata: of the file.
        head_dim: rotated size of a head.
        positions: the model's context length.
        mscale: the architecture multiplies the scale of attention by YaRN's mscale, as DeepSeek does.

    Raises:
        SourceError: a value that no converter writes.
        UnsupportedModelError: a scaling that transformers' RoPE cannot express; the message names it.
    """
    theta = metadata.number("rope.freq_base", DEFAULT_THETA)
    plain: dict[str, Any] = {"rope_type": "default", "rope_theta": theta}
    factor = metadata.number("rope.scaling.factor", 0.0, zero=True)
    # The name of the factor in old files.
    older = metadata.number("rope.scale_linear", 0.0, zero=True)
    if metadata.value("rope.scaling.factor") is None:
        factor = older
    kind = metadata.text("rope.scaling.type", "linear")
    original = metadata.count("rope.scaling.original_context_length", positions)
    for key in ("rope.scaling.attn_factor", "rope.scaling.yarn_attn_factor", "rope.scaling.yarn_ext_factor"):
        if metadata.value(key) not in (None, 1):
            raise metadata.unsupported(key)
    # 0.1 times DeepSeek's mscale_all_dim.
    multiplier = metadata.number("rope.scaling.yarn_log_multiplier", 0.0, zero=True)
    if multiplier and not mscale:
        raise metadata.unsupported("rope.scaling.yarn_log_multiplier")
    ramp = {
        "beta_fast": metadata.number("rope.scaling.yarn_beta_fast", 32.0),
        "beta_slow": metadata.number("rope.scaling.yarn_beta_slow", 1.0),
    }
    if kind not in ("none", "linear", "yarn"):
        raise metadata.unsupported("rope.scaling.type")
    if kind == "yarn" and factor == 0.0:
        raise metadata.unsupported("rope.scaling.type", "without rope.scaling.factor")
    scaled = kind != "none" and factor not in (0.0, 1.0)
    if ROPE_FREQUENCIES in metadata.file.tensors:
        scaling = _llama3_scaling(metadata.file, theta, head_dim, positions)
        if scaling and scaled:
            raise metadata.unsupported("rope.scaling.factor", f"beside {ROPE_FREQUENCIES}")
        if scaling:
            return {**scaling, "rope_theta": theta}
    if not scaled:
        return plain
    if kind == "linear":
        return {"rope_type": "linear", "rope_theta": theta, "factor": factor}
    return {
        "rope_type": "yarn",
        "rope_theta": theta,
        "factor": factor,
        "original_max_position_embeddings": original,
        **ramp,
        **(dict.fromkeys(("mscale", "mscale_all_dim"), 10 * multiplier) if multiplier else {}),
    }


def _llama3_scaling(file: Any, theta: float, dim: int, positions: int) -> dict[str, Any] | None:
    """Llama 3's RoPE scaling, None without scaling. GGUF stores the divisors of the frequencies, not the parameters.

    Raises:
        SourceError: the divisors are not positive numbers.
        UnsupportedModelError: the divisors are not those of Llama 3's formula.
    """
    divisors = torch.from_numpy(file.read(ROPE_FREQUENCIES))
    if not torch.isfinite(divisors).all() or (divisors <= 0).any():
        raise SourceError(
            f"{file.path} is damaged: {ROPE_FREQUENCIES} has values that are no divisors; download it again"
        )
    if torch.all(divisors == 1):
        return None
    plain = 1.0 / theta ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)
    for ramp in _LLAMA3_ROPE:
        scaling = {"rope_type": "llama3", "factor": float(divisors.max()), **ramp}
        config = AutoConfig.for_model(
            "llama",
            hidden_size=dim,
            num_attention_heads=1,
            head_dim=dim,
            max_position_embeddings=positions,
            rope_parameters={"rope_theta": theta, **scaling},
        )
        scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
        if divisors.shape == plain.shape and torch.allclose(plain / scaled, divisors, rtol=1e-3):
            return scaling
    raise UnsupportedModelError(
        f"{file.path} carries rotary divisors ({ROPE_FREQUENCIES}) that are not Llama 3's: "
        "give the model's Hugging Face directory"
    )
