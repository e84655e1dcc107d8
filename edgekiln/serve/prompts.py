"""The prompts of /v1/completions."""

from typing import Any

import numpy as np

from edgekiln.runtimes.base import Ids
from edgekiln.serve.errors import ApiError, bad_request


def completion_prompts(prompt: object) -> list[str | Ids]:
    """A text, a list of texts, token ids, or a list of these, as a list of texts and int64[S] ids.

    Raises:
        ApiError: it is something else.
    """
    if isinstance(prompt, str):
        return [prompt]
    if not isinstance(prompt, list) or not prompt:
        raise _wrong(prompt)
    if all(map(_is_id, prompt)):
        return [_ids(prompt)]
    return [_prompt(part, f"prompt[{index}]") for index, part in enumerate(prompt)]


def _prompt(part: object, path: str) -> str | Ids:
    if isinstance(part, str):
        return part
    if isinstance(part, list) and part and all(map(_is_id, part)):
        return _ids(part)
    raise _wrong(part, path)


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _ids(values: list[Any]) -> Ids:
    outside = [value for value in values if not 0 <= value < 2**31]
    if outside:
        raise bad_request(f"token id {outside[0]!r:.40} is outside every vocabulary", "prompt", "invalid_value")
    return np.array(values, dtype=np.int64)


def _wrong(value: object, path: str = "prompt") -> ApiError:
    return bad_request(f"{path} must be text, token ids or a list of these, got {value!r:.60}", path, "invalid_value")
