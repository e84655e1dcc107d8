"""The tokenizer of a Hugging Face directory as transformers loads it, and its special tokens."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PretrainedConfig, PreTrainedTokenizerFast

from edgekiln.engine.chat_templates import template_file
from edgekiln.engine.directory import TOKENIZER_FILE
from edgekiln.engine.manifest import SpecialTokens
from edgekiln.errors import SourceError, one_line
from edgekiln.sources.git_lfs import refuse_pointer
from edgekiln.sources.json_file import read_json

_CONFIG_FILE = "config.json"
_GENERATION_FILE = "generation_config.json"
_SETTINGS_FILE = "tokenizer_config.json"
_PROCESSOR_TEMPLATE_FILE = "chat_template.json"
_LONGEST_FILE_NAME = 255  # of a chat template in an engine
_SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


@dataclass(frozen=True)
class TokenizerSource:
    """A tokenizer in the form that an engine holds.

    Attributes:
        json: tokenizer.json of the `tokenizers` library, as text.
        chat_template: the Jinja chat template, or several by name; None if there is none.
        special_tokens: see `SpecialTokens`.
    """

    json: str
    chat_template: str | dict[str, str] | None
    special_tokens: SpecialTokens


def load_tokenizer(
    directory: Path,
    config: PretrainedConfig,
    generation: dict[str, Any] | None,
    trust_remote_code: bool = False,
) -> TokenizerSource:
    """Load the tokenizer of a Hugging Face directory.

    transformers loads it, because it adds the tokens and the post-processor that tokenizer_config.json requires. An
    answer ends at the end tokens of the tokenizer and of the generation config.

    Args:
        directory: the checkpoint.
        config: its configuration.
        generation: generation_config.json; None if there is none.
        trust_remote_code: run tokenizer code that the checkpoint contains.

    Raises:
        SourceError: there is no tokenizer.json, it or a chat template cannot be read, or a token id is no integer.
    """
    path = directory / TOKENIZER_FILE
    if not path.is_file():
        raise SourceError(
            f"{directory} has no {TOKENIZER_FILE}: save one with transformers' AutoTokenizer and save_pretrained"
        )
    refuse_pointer(path)
    try:
        loaded = AutoTokenizer.from_pretrained(directory, trust_remote_code=trust_remote_code, local_files_only=True)
    except Exception as error:
        # The Rust tokenizer raises bare Exceptions on a damaged file.
        damaged = _damaged_file(path)
        raise SourceError(f"{damaged} cannot be read ({one_line(error)}): download it again") from error
    if not isinstance(loaded, PreTrainedTokenizerFast):
        raise SourceError(f"{directory} has a {type(loaded).__name__}, which is not a fast tokenizer")
    templates = _chat_template(loaded.chat_template, directory)
    # Without generation_config.json, transformers takes the keys that config.json has, and no defaults of its class.
    named = generation if generation is not None else _named_ids(read_json(directory / _CONFIG_FILE))
    where = directory / (_CONFIG_FILE if generation is None else _GENERATION_FILE)
    size = max(loaded.backend_tokenizer.get_vocab_size(), getattr(config, "vocab_size", None) or 0)
    own = {key: getattr(loaded, key) for key in _SPECIAL_IDS}
    begin, end, pad = (
        (_ids(own[key], key, where, size), _ids(named.get(key), key, where, size)) for key in _SPECIAL_IDS
    )
    return finish(
        loaded.backend_tokenizer,
        templates,
        next(iter(begin[0] + begin[1]), None),
        end[1] + end[0],
        next(iter(pad[0] + pad[1]), None),
        loaded.special_tokens_map,
    )


def finish(
    tokenizer: Tokenizer,
    chat_template: str | dict[str, str] | None,
    begin: int | None,
    end: list[int],
    pad: int | None,
    template_variables: Mapping[str, str] | None = None,
) -> TokenizerSource:
    """Serialize a tokenizer without truncation and padding, and detect whether it adds bos to plain text.

    Args:
        tokenizer: changed in place.
        chat_template: the Jinja chat template, or several by name, or None.
        begin: token id of the beginning of a text, or None.
        end: token ids that end an answer; duplicates are removed.
        pad: token id of padding, or None.
        template_variables: texts of special tokens by their names in chat templates, see `SpecialTokens`.

    Raises:
        SourceError: the name of a chat template is too long.
    """
    for name in chat_template if isinstance(chat_template, dict) else ():
        if len(template_file(name)) > _LONGEST_FILE_NAME:
            raise SourceError(f"the chat template {name!r:.60} has a name that is too long for a file: shorten it")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    ids = tokenizer.encode("a").ids
    special_tokens = SpecialTokens(
        bos=begin,
        eos=list(dict.fromkeys(end)),
        pad=pad,
        add_bos=begin is not None and bool(ids) and ids[0] == begin,
        template_variables=dict(template_variables or {}),
    )
    return TokenizerSource(tokenizer.to_str(), chat_template, special_tokens)


def _damaged_file(path: Path) -> Path:
    """The file because of which no tokenizer was made: `path`, or tokenizer_config.json if `path` alone makes one."""
    settings = path.with_name(_SETTINGS_FILE)
    try:
        Tokenizer.from_buffer(path.read_bytes())
    except Exception:  # the library raises bare Exceptions
        return path
    return settings if settings.is_file() else path


def _chat_template(template: Any, directory: Path) -> str | dict[str, str] | None:
    """The chat templates that transformers' tokenizer found; without any, that of the model's processor."""
    path = directory / _PROCESSOR_TEMPLATE_FILE
    if template is None and path.is_file():
        template = read_json(path).get("chat_template")
    texts = [*template, *template.values()] if isinstance(template, dict) else [template]
    if template is not None and not all(isinstance(text, str) and text == _utf8(text) for text in texts):
        raise SourceError(f"{directory} has a chat template that is not text, {template!r:.60}: correct it")
    return template or None


def _utf8(text: str) -> str:
    """The text without lone surrogates, which JSON can hold and UTF-8 cannot."""
    return text.encode("utf-8", "ignore").decode("utf-8")


def _named_ids(config: dict[str, Any]) -> dict[str, Any]:
    """The keys of a config.json and of its text decoder's part, which count where the whole has no value for them."""
    text = config.get("text_config")
    given = {key: value for key, value in config.items() if value is not None}
    return {**(text if isinstance(text, dict) else {}), **given}


def _ids(value: Any, key: str, where: Path, size: int) -> list[int]:
    """Token ids of a value of a config; those outside the vocabulary, such as -1 for none, are never generated."""
    ids = [] if value is None else list(value) if isinstance(value, list) else [value]
    for token in ids:
        if not isinstance(token, int) or isinstance(token, bool):
            raise SourceError(f"{where} has {key} {value!r:.60}: give a token id, or a list of them")
    return [token for token in ids if 0 <= token < size]
