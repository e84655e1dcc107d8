"""The tokenizer of a source: tokenizer.json as transformers would use it, special tokens, sampling defaults."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PretrainedConfig, PreTrainedTokenizerFast

from edgekiln.engine.directory import TOKENIZER_FILE
from edgekiln.engine.manifest import SamplingDefaults, SpecialTokens
from edgekiln.errors import SourceError
from edgekiln.sources.weight_conversion import one_line


@dataclass(frozen=True)
class TokenizerSource:
    """A tokenizer ready to be written into an engine."""

    json: str
    chat_template: str | None
    tokens: SpecialTokens


def load_tokenizer(
    directory: Path, config: PretrainedConfig, generation: dict[str, Any], trust_remote_code: bool = False
) -> TokenizerSource:
    """The tokenizer of a Hugging Face directory.

    It goes through transformers, which adds the tokens and post-processing that tokenizer_config.json asks for.

    Raises:
        SourceError: no tokenizer.json, or one that cannot be read.
    """
    path = directory / TOKENIZER_FILE
    if not path.is_file():
        raise SourceError(
            f"{directory} has no {TOKENIZER_FILE}: save one with transformers' AutoTokenizer and save_pretrained"
        )
    try:
        loaded = AutoTokenizer.from_pretrained(directory, trust_remote_code=trust_remote_code, local_files_only=True)
    except Exception as error:
        # The Rust tokenizer raises bare Exceptions on a damaged file.
        raise SourceError(f"{path} cannot be read ({one_line(error)}): download it again") from error
    if not isinstance(loaded, PreTrainedTokenizerFast):
        raise SourceError(f"{directory} has a {type(loaded).__name__}, which is not a fast tokenizer")
    end = _ids(generation.get("eos_token_id")) or _ids(config.eos_token_id)
    # Chat models are often published with the base model's end token in config.json and the turn's end in the
    # tokenizer; both end an answer. A tokenizer that gives one token both roles says nothing about the end.
    if loaded.eos_token_id is not None and (not end or loaded.eos_token_id != loaded.bos_token_id):
        end += _ids(loaded.eos_token_id)
    begin = loaded.bos_token_id if loaded.bos_token_id is not None else config.bos_token_id
    pad = next(
        (x for x in (loaded.pad_token_id, generation.get("pad_token_id"), config.pad_token_id) if x is not None), None
    )
    return finish(loaded.backend_tokenizer, _default_template(loaded.chat_template), begin, end, pad)


def finish(
    tokenizer: Tokenizer, chat_template: str | None, begin: int | None, end: list[int], pad: int | None
) -> TokenizerSource:
    """Serialize without truncation and padding, and see whether plain text gets a beginning token."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    ids = tokenizer.encode("a").ids
    tokens = SpecialTokens(
        bos=begin,
        eos=list(dict.fromkeys(end)),
        pad=pad,
        add_bos=begin is not None and bool(ids) and ids[0] == begin,
    )
    return TokenizerSource(tokenizer.to_str(), chat_template, tokens)


def sampling_defaults(generation: dict[str, Any]) -> SamplingDefaults:
    """From generation_config.json. Without do_sample transformers decodes greedily, so its temperature says nothing."""
    sampled = {name: generation.get(name) for name in ("temperature", "top_k", "top_p", "min_p")}
    return SamplingDefaults(
        **(sampled if generation.get("do_sample") else {}), repetition_penalty=generation.get("repetition_penalty")
    )


def _default_template(template: str | dict[str, str] | None) -> str | None:
    if isinstance(template, dict):
        return template.get("default") or next(iter(template.values()), None)
    return template


def _ids(value: int | list[int] | None) -> list[int]:
    return [] if value is None else list(value) if isinstance(value, list) else [value]
