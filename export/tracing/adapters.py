"""Modules whose attention, experts or positions transformers offers no hook for: a row for each kind of module.

Most attention modules call a function that is registered by name (`attention`). Older ones compute attention in a
method, or in the middle of their forward; here that method is replaced by a function that calls `attention.attend`.
A row names a class, so that nothing depends on the type of the model around it.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch
from transformers import PreTrainedModel

from edgekiln.errors import UnsupportedModelError
from edgekiln.export.tracing import (
    complex_rotation,
    latent_attention,
    ngram_embedding,
    own_attention,
    own_moe,
    own_positions,
    sparse_attention,
)


@dataclass(frozen=True)
class Adapter:
    """The replacement of methods of a module.

    Attributes:
        methods: name of a method -> a function that takes the module and then the arguments of the method.
        unused: buffers that the function does not read, such as masks of [positions, positions].
        prepare: called once for each module.
        needs: an attribute of the modules that are meant, where the class has become another one in some version of
            transformers; None for all modules of the class.
        numbered: give the modules a `layer_idx` where they have none.
    """

    methods: dict[str, Callable[..., Any]]
    unused: tuple[str, ...] = ()
    prepare: Callable[[Any], None] | None = None
    needs: str | None = None
    numbered: bool = True


_LATENT: Final = Adapter({"expand_kv": latent_attention.expand_kv}, prepare=latent_attention.keep_latent)

_INDEXED_LATENT: Final = Adapter(_LATENT.methods, prepare=sparse_attention.latent_and_every_key)

_BART_LIKE: Final = Adapter({"forward": own_attention.bart_like})

_POSITIONS: Final = Adapter({"forward": own_positions.from_table})

# Package of transformers.models and class -> what is replaced.
ADAPTERS: Final[dict[tuple[str, str], Adapter]] = {
    ("codegen", "CodeGenAttention"): Adapter({"_attn": own_attention.scaled_by_root}),
    ("gpt_neo", "GPTNeoSelfAttention"): Adapter({"_attn": own_attention.gpt_neo}, unused=("bias",)),
    ("gpt_neox_japanese", "GPTNeoXJapaneseAttention"): Adapter({"_attn": own_attention.scaled_by_root}),
    ("gptj", "GPTJAttention"): Adapter({"forward": own_attention.gptj}, unused=("embed_positions",)),
    ("gptj", "GPTJRotaryEmbedding"): Adapter({"forward": own_attention.no_angles}, unused=("embed_positions",)),
    ("openai", "Attention"): Adapter({"_attn": own_attention.openai_gpt}, unused=("bias",)),
    ("doge", "DogeAttention"): Adapter({"forward": own_attention.doge}),
    ("falcon", "FalconAttention"): Adapter({"forward": own_attention.falcon}, prepare=own_attention.falcon_slopes),
    ("bloom", "BloomAttention"): Adapter({"forward": own_attention.bloom}, prepare=own_attention.bloom_slopes),
    ("mpt", "MptAttention"): Adapter({"forward": own_attention.mpt}, prepare=own_attention.mpt_slopes),
    ("git", "GitModel"): Adapter({"forward": own_attention.git_model}),
    ("git", "GitSelfAttention"): Adapter({"forward": own_attention.git}),
    ("mvp", "MvpAttention"): _BART_LIKE,
    ("trocr", "TrOCRAttention"): _BART_LIKE,
    ("xglm", "XGLMAttention"): _BART_LIKE,
    ("hrm_text", "HrmTextAttention"): Adapter({"forward": own_attention.hrm_text}),
    ("llama4", "Llama4TextRotaryEmbedding"): Adapter({"forward": complex_rotation.angles}),
    ("llama4", "Llama4TextAttention"): Adapter({"forward": complex_rotation.llama4}),
    ("deepseek_v2", "DeepseekV2RotaryEmbedding"): Adapter({"forward": complex_rotation.angles}),
    ("deepseek_v2", "DeepseekV2Attention"): Adapter(
        {"forward": complex_rotation.deepseek_v2, **_LATENT.methods}, prepare=_LATENT.prepare
    ),
    ("axk1", "AXK1Attention"): _LATENT,
    ("deepseek_v3", "DeepseekV3Attention"): _LATENT,
    ("glm4_moe_lite", "Glm4MoeLiteAttention"): _LATENT,
    ("kimi_linear", "KimiLinearAttention"): _LATENT,
    ("longcat_flash", "LongcatFlashMLA"): _LATENT,
    ("minicpm3", "MiniCPM3Attention"): _LATENT,
    ("mistral4", "Mistral4Attention"): _LATENT,
    ("youtu", "YoutuAttention"): _LATENT,
    ("axk2", "AXK2Attention"): _INDEXED_LATENT,
    ("deepseek_v32", "DeepseekV32Attention"): _INDEXED_LATENT,
    ("dots3_note", "Dots3NoteTextAttention"): _INDEXED_LATENT,
    ("glm_moe_dsa", "GlmMoeDsaAttention"): _INDEXED_LATENT,
    ("hy_v4", "HYV4Attention"): _INDEXED_LATENT,
    ("minimax_m3_vl", "MiniMaxM3VLAttention"): Adapter({}, prepare=sparse_attention.every_key(sparse_attention.blocks)),
    ("qwen4_exp", "Qwen4ExpTextAttention"): Adapter({}, prepare=sparse_attention.every_key(sparse_attention.budget)),
    ("qwen4_exp", "Qwen4ExpTextNGramEmbedding"): Adapter({"forward": ngram_embedding.embeddings}),
    ("qwen4_exp", "Qwen4ExpTextPLELayer"): Adapter({"_short_conv": ngram_embedding.short_convolution}),
    ("aria", "AriaExperts"): Adapter({"forward": own_moe.aria}, needs="fc1", numbered=False),
    ("dbrx", "DbrxExperts"): Adapter({"forward": own_moe.dbrx}, numbered=False),
    ("jetmoe", "JetMoeMoE"): Adapter({"forward": own_moe.jetmoe}, numbered=False),
    ("jetmoe", "JetMoeMoA"): Adapter({"map": own_moe.jetmoe_queries, "reduce": own_moe.jetmoe_outputs}, numbered=False),
    ("llama4", "Llama4TextMoe"): Adapter({"forward": own_moe.llama4}, numbered=False),
    ("longcat_flash", "LongcatFlashExperts"): Adapter({"forward": own_moe.longcat_flash}, numbered=False),
    ("bart", "BartLearnedPositionalEmbedding"): _POSITIONS,
    ("bigbird_pegasus", "BigBirdPegasusLearnedPositionalEmbedding"): _POSITIONS,
    ("blenderbot", "BlenderbotLearnedPositionalEmbedding"): _POSITIONS,
    ("blenderbot_small", "BlenderbotSmallLearnedPositionalEmbedding"): _POSITIONS,
    ("marian", "MarianSinusoidalPositionalEmbedding"): _POSITIONS,
    ("mbart", "MBartLearnedPositionalEmbedding"): _POSITIONS,
    ("mvp", "MvpLearnedPositionalEmbedding"): _POSITIONS,
    ("pegasus", "PegasusSinusoidalPositionalEmbedding"): _POSITIONS,
    ("plbart", "PLBartLearnedPositionalEmbedding"): _POSITIONS,
    ("trocr", "TrOCRLearnedPositionalEmbedding"): _POSITIONS,
    ("trocr", "TrOCRSinusoidalPositionalEmbedding"): Adapter(_POSITIONS.methods, prepare=own_positions.keep_sinusoids),
    ("whisper", "WhisperPositionalEmbedding"): _POSITIONS,
    ("xglm", "XGLMSinusoidalPositionalEmbedding"): _POSITIONS,
}

_COMPRESSED: Final = "attends to compressed keys and values, each of several tokens"
_DISTANCES: Final = "adds a bias to each score that depends on the distance and on the query"
# Package and class -> what a model with such a module does, for which there is no replacement.
_UNSUPPORTED: Final[dict[tuple[str, str], str]] = {
    ("blt", "BltModel"): "groups bytes into patches, whose lengths depend on the text",
    ("deepseek_v4", "DeepseekV4CSACompressor"): _COMPRESSED,
    ("deepseek_v4", "DeepseekV4HCACompressor"): _COMPRESSED,
    ("inkling", "InklingRelativeLogits"): _DISTANCES,
    ("inkling2", "Inkling2RelativePositionBias"): _DISTANCES,
    ("inkling2_loop", "Inkling2LoopRelativePositionBias"): _DISTANCES,
}


def install_adapters(model: PreTrainedModel) -> None:
    """Replace the methods of all modules of `ADAPTERS` in a model, and number attention modules without `layer_idx`.

    Raises:
        UnsupportedModelError: the model has a module of `_UNSUPPORTED`.
    """
    count: Counter[type] = Counter()
    for module in list(model.modules()):
        if description := _UNSUPPORTED.get(kind_of(module)):
            raise UnsupportedModelError(f"{model.config.model_type} {description}, which edgekiln does not support yet")
        adapter = ADAPTERS.get(kind_of(module))
        if adapter is None or not (adapter.needs is None or hasattr(module, adapter.needs)):
            continue
        replaced: Any = module
        if adapter.numbered and not isinstance(getattr(module, "layer_idx", None), int):
            replaced.layer_idx = count[type(module)]
        count[type(module)] += 1
        for name in adapter.unused:
            setattr(replaced, name, None)
        if adapter.prepare is not None:
            adapter.prepare(module)
        for name, function in adapter.methods.items():
            setattr(replaced, name, partial(function, module))


def kind_of(module: torch.nn.Module) -> tuple[str, str]:
    """The package of transformers.models that a module's class is from, empty for other classes, and its name."""
    path = type(module).__module__.split(".")
    return path[2] if path[:2] == ["transformers", "models"] else "", type(module).__name__
