"""The special tokens of a GGUF file: ids from keys, llama.cpp's defaults, and ends of an answer known by their text."""

from dataclasses import dataclass

from edgekiln.errors import SourceError
from edgekiln.sources.gguf.reader import GgufFile

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # tokenizer.ggml.token_type
_PREFIX = "tokenizer.ggml."
# Variable of chat templates -> key. "seperator" is how GGUF spells it.
_VARIABLES = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "sep_token": "seperator_token_id",
    "pad_token": "padding_token_id",
    "cls_token": "cls_token_id",
    "mask_token": "mask_token_id",
}
# Ids that llama.cpp takes without the key. Those of byte-level BPE are Falcon's: only a control token is taken.
_SENTENCEPIECE_IDS = {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0}
_BYTE_LEVEL_IDS = {"bos_token_id": 11, "eos_token_id": 11}
_END_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id", "fim_pad_token_id", "fim_rep_token_id", "fim_sep_token_id")
# Texts of tokens at which llama.cpp ends an answer whatever the keys say. "</s>" is the text of an HTML tag too: it
# ends an answer only where the file says that it is a control token.
_END_TEXTS = {
    *("<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>"),
    *("<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>", "<eos>"),
    *("<end_of_utterance>", "<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~["),
}
# Texts of infilling tokens that llama.cpp takes for a key of `_END_KEYS` that is absent; the first in the vocabulary.
_INFILLING_TEXTS = {
    "fim_pad_token_id": ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
    "fim_rep_token_id": ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"),
    "fim_sep_token_id": ("<|file_sep|>",),
}
# In vocabularies with tokens of both kinds, "<|end|>" ends a message of several in one answer.
_ANSWER_ENDS, _CALL_ENDS = {"<|return|>", "<|flush|>"}, {"<|call|>", "<|calls|>"}


@dataclass(frozen=True)
class GgufSpecialTokens:
    """Special tokens of a GGUF vocabulary.

    Attributes:
        bos: id of the beginning of a text, or None.
        eos: id of the end of a text, or None.
        unknown: id of the token for unknown characters, or None.
        pad: id of padding, or None.
        ends: ids that end an answer, eos first.
        variables: variable of chat templates -> text of the token.
    """

    bos: int | None
    eos: int | None
    unknown: int | None
    pad: int | None
    ends: list[int]
    variables: dict[str, str]


def read_special_tokens(file: GgufFile, tokens: list[str], kinds: list[int], sentencepiece: bool) -> GgufSpecialTokens:
    """Read the special tokens.

    Args:
        file: the GGUF file.
        tokens: the vocabulary.
        kinds: type of each token; changed in place: a token that ends an answer by its text becomes a control token.
        sentencepiece: the vocabulary is SentencePiece's, not byte-level BPE.

    Raises:
        SourceError: a special token is outside the vocabulary.
    """
    defaults = _SENTENCEPIECE_IDS if sentencepiece else _BYTE_LEVEL_IDS
    allowed = [token for token, kind in enumerate(kinds[:16]) if sentencepiece or kind == CONTROL]
    ids: dict[str, int | None] = {}
    for key in dict.fromkeys((*_VARIABLES.values(), *_END_KEYS)):
        token, default = _token_id(file, key, tokens), defaults.get(key)
        ids[key] = default if token is None and default in allowed else token
    variables = {name: tokens[token] for name, key in _VARIABLES.items() if (token := ids[key]) is not None}
    return GgufSpecialTokens(
        bos=ids["bos_token_id"],
        eos=ids["eos_token_id"],
        unknown=ids["unknown_token_id"],
        pad=ids["padding_token_id"],
        ends=_ends(file, tokens, kinds, ids),
        variables=variables,
    )


def _ends(file: GgufFile, tokens: list[str], kinds: list[int], ids: dict[str, int | None]) -> list[int]:
    ends = [token for key in _END_KEYS if (token := ids[key]) is not None]
    # Ollama's name for a list of all ends.
    more = file.get(f"{_PREFIX}eos_token_ids", [])
    if not isinstance(more, list):
        raise SourceError(f"{file.path} is damaged: {_PREFIX}eos_token_ids is {more!r:.60}, no list; download it again")
    ends += [_checked(file, "eos_token_ids", token, tokens) for token in more]
    texts = {text: token for token, text in enumerate(tokens) if text in _END_TEXTS}
    found = [token for text, token in texts.items() if text != "</s>" or kinds[token] == CONTROL]
    for key, infilling in _INFILLING_TEXTS.items():
        if ids[key] is None:
            found += [token for token, text in enumerate(tokens) if text in infilling][:1]
    for token in found:
        kinds[token] = CONTROL
    ends += found
    names = {tokens[token] for token in ends}
    if names & _ANSWER_ENDS and names & _CALL_ENDS:
        ends = [token for token in ends if tokens[token] != "<|end|>"]
    if "<|tool_response>" in names:
        ends = [token for token in ends if tokens[token] != "</s>"]
    return list(dict.fromkeys(ends))


def _token_id(file: GgufFile, key: str, tokens: list[str]) -> int | None:
    token = file.get(f"{_PREFIX}{key}")
    return None if token is None else _checked(file, key, token, tokens)


def _checked(file: GgufFile, key: str, token: object, tokens: list[str]) -> int:
    if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < len(tokens):
        raise SourceError(
            f"{file.path} is damaged: {_PREFIX}{key} is {token!r:.60}, its vocabulary has {len(tokens)} tokens; "
            "download it again"
        )
    return token
