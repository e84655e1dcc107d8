"""The lowering of a build and its options, among them how many tokens a sequence may have."""

from edgekiln.calib.formats.codebook import without_codebook
from edgekiln.calib.formats.prequantized import PrequantizedWeight
from edgekiln.calib.quantization_plan import PrequantizedLookup
from edgekiln.errors import RequestError
from edgekiln.export.lower.base import Lowering, LoweringOptions
from edgekiln.export.tracing.rope import check_length
from edgekiln.pipeline.options import BuildOptions
from edgekiln.sources.base import ModelSource
from edgekiln.targets import find_target

# Configurations may state contexts that no machine holds. Rotary angles are of positions in float32, which has no odd
# numbers above 2^24.
_LONGEST_BY_DEFAULT, _LONGEST = 1 << 20, 1 << 24


def lowering_of(source: ModelSource, options: BuildOptions) -> tuple[Lowering, LoweringOptions]:
    """The target's lowering and its options.

    Raises:
        RequestError: a length beyond the model's context, or none where the context length is not known or very large.
        UnsupportedModelError: rotary frequencies that change at a shorter length.
    """
    max_length = _max_length(source, options.max_length)
    lowering = find_target(options.target).load_lowering()
    check_length(source.config, max_length, by_length=lowering.sequence_length)
    return lowering, LoweringOptions(options.target, max_length, options.tensorrt)


def prequantized_lookup(source: ModelSource, options: BuildOptions) -> PrequantizedLookup:
    """Find the checkpoint's quantized weights, in forms that layers of the target take."""
    find = source.weights.prequantized
    if find_target(options.target).codebooks:
        return find

    def find_without_codebook(name: str) -> PrequantizedWeight | None:
        found = find(name)
        return None if found is None else without_codebook(found)

    return find_without_codebook


def context_length(source: ModelSource) -> int | None:
    """The most tokens with which a model can be built; None where its config does not say."""
    context: int | None = getattr(source.config, "max_position_embeddings", None)
    if context is None and not hasattr(source.config, "num_attention_heads"):
        context = getattr(source.config, "context_length", None) or _LONGEST_BY_DEFAULT  # states hold any length
    return context


def _max_length(source: ModelSource, wanted: int | None) -> int:
    context = context_length(source)
    chosen = context if wanted is None else wanted
    if chosen is None:
        raise RequestError(f"{source.name} does not say its context length: give --max-length")
    if context is not None and chosen > context:
        raise RequestError(f"max length {wanted} is over the model's context of {context}: lower --max-length")
    if wanted is None and chosen > _LONGEST_BY_DEFAULT:
        raise RequestError(
            f"{source.name} has a context of {context} tokens, more than engines hold by default: "
            f"give a --max-length, such as {_LONGEST_BY_DEFAULT}"
        )
    if chosen > _LONGEST:
        raise RequestError(f"max length {chosen} is over {_LONGEST}, the most that engines hold: lower --max-length")
    return chosen
