"""The tokenizer of a Hugging Face directory as transformers loads it, its special tokens, and sampling defaults."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PretrainedConfig, PreTrainedTokenizerFast

from edgekiln.engine.directory import TOKENIZER_FILE
from edgekiln.engine.manifest import SamplingDefaults, SpecialTokens
from edgekiln.errors import SourceError, one_line


@dataclass(frozen=True)
class TokenizerSource:
    """A tokenizer in the form that an engine holds.

    Attributes:
        json: tokenizer.json of the `tokenizers` library, as text.
        chat_template: the Jinja chat template; None if there is none.
        special_tokens: see `SpecialTokens`.
    """

    json: str
    chat_template: str | None
    special_tokens: SpecialTokens


def load_tokenizer(
    directory: Path, config: PretrainedConfig, generation: dict[str, Any], trust_remote_code: bool = False
) -> TokenizerSource:
    """Load the tokenizer of a Hugging Face directory.

    transformers loads it, because it adds the tokens and the post-processor that tokenizer_config.json requires.

    Args:
        directory: the checkpoint.
        config: its configuration, for special tokens that the tokenizer does not name.
        generation: generation_config.json; empty if there is none.
        trust_remote_code: run tokenizer code that the checkpoint contains.

    Raises:
        SourceError: there is no tokenizer.json, or it cannot be read.
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
    # Chat models often name the base model's end token in config.json and the end-of-turn token in the tokenizer;
    # either ends an answer. A tokenizer whose eos is its bos (GPT-2) adds no information.
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
    """Serialize a tokenizer without truncation and padding, and detect whether it adds bos to plain text.

    Args:
        tokenizer: changed in place.
        chat_template: the Jinja chat template, or None.
        begin: token id of the beginning of a text, or None.
        end: token ids that end an answer; duplicates are removed.
        pad: token id of padding, or None.
    """
    tokenizer.no_truncation()
    tokenizer.no_padding()
    ids = tokenizer.encode("a").ids
    special_tokens = SpecialTokens(
        bos=begin,
        eos=list(dict.fromkeys(end)),
        pad=pad,
        add_bos=begin is not None and bool(ids) and ids[0] == begin,
    )
    return TokenizerSource(tokenizer.to_str(), chat_template, special_tokens)


def sampling_defaults(generation: dict[str, Any]) -> SamplingDefaults:
    """Sampling defaults of a generation_config.json.

    Without `do_sample` transformers decodes greedily, so temperature, top_k, top_p and min_p are left out.
    """
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
