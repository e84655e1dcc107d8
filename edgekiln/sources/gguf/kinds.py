"""Recognizing GGUF files that are not language models: adapters, projectors and others that llama.cpp's tools write."""

from edgekiln.errors import SourceError
from edgekiln.sources.gguf.reader import GgufFile

# general.type or general.architecture of a file -> what it is, and what to give instead.
_KINDS = {
    "adapter": "a LoRA adapter: merge it into its base model and give the result",
    "clip": "the image or audio encoder of a multimodal model (mmproj): give the GGUF file of its language model",
    "mmproj": "the image or audio encoder of a multimodal model (mmproj): give the GGUF file of its language model",
    "imatrix": "an importance matrix for llama.cpp's quantization: give the GGUF file of a model",
    "dataset": "a data set: give the GGUF file of a model",
    "vocab": "a vocabulary without weights: give the GGUF file of a model",
}


def check_is_model(file: GgufFile) -> None:
    """Check that a GGUF file holds a model.

    Raises:
        SourceError: it holds something else; the message says what.
    """
    architecture = file.get("general.architecture")
    kinds = [file.get("general.type"), architecture]
    if "adapter.type" in file.metadata:
        kinds.insert(0, "adapter")
    known = next((_KINDS[kind] for kind in kinds if isinstance(kind, str) and kind in _KINDS), None)
    if known is not None:
        raise SourceError(f"{file.path} is {known}")
    if not isinstance(architecture, str) or not architecture.isprintable() or not architecture:
        raise SourceError(f"{file.path} names no general.architecture: it is not a model")
    if not file.tensors:
        raise SourceError(f"{file.path} is {_KINDS['vocab']}")
