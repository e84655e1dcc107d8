"""Load calibration data: tokenize a file or a data set and cut it into windows."""

import importlib.util
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ValidationError, model_validator

from edgekiln.calib.data.options import DataOptions
from edgekiln.errors import RequestError
from edgekiln.runtimes.text.tokenizer import Tokenizer

Windows = npt.NDArray[np.int64]

# Names that a data set on the Hugging Face Hub may have. A name with one of the suffixes is taken as a file.
_DATASET_NAME = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")
_FILE_SUFFIXES = (".txt", ".md", ".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".gz", ".zip")


class _Document(BaseModel):
    """One line of a JSONL file. Other keys are ignored."""

    text: str | None = None
    messages: list[dict[str, Any]] | None = None

    @model_validator(mode="after")
    def _check(self) -> "_Document":
        if (self.text is None) == (self.messages is None):
            raise ValueError('it needs either "text" or "messages"')
        return self


def windows_of(options: DataOptions, tokenizer: Tokenizer) -> Windows:
    """Load the data that `options.data` names.

    Documents are concatenated, and windows are spread evenly over them.

    Args:
        options: with data.
        tokenizer: the model's.

    Returns:
        int64 [windows, length]. Short data gives fewer windows, or one shorter window.

    Raises:
        RequestError: the data is missing, damaged or empty, or the chat template rejects messages.
    """
    assert options.data is not None
    budget = _TokenBudget(options)
    parts = []
    for ids in _encoded(options.data, tokenizer):
        parts.append(ids)
        if budget.spend(len(ids)):
            break
    tokens = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
    if len(tokens) < 2:
        raise RequestError(f"the calibration data {options.data} has {len(tokens)} tokens: give some text")
    count = len(tokens) // options.length
    if count == 0:
        return tokens[None]
    windows = tokens[: count * options.length].reshape(count, options.length)
    chosen = np.linspace(0, count - 1, min(options.count, count)).round().astype(int)
    return np.ascontiguousarray(windows[chosen])


class _TokenBudget:
    """Limits how many tokens are read, so that a data set of terabytes is not read to its end."""

    # Multiple of the tokens in all windows.
    _SPREAD = 8

    def __init__(self, options: DataOptions) -> None:
        self._left = options.count * options.length * self._SPREAD

    def spend(self, tokens: int) -> bool:
        """Count `tokens` more, and return whether the budget is spent."""
        self._left -= tokens
        return self._left <= 0


def _encoded(data: str, tokenizer: Tokenizer) -> Iterator[Windows]:
    path = Path(data).expanduser()
    if not path.exists():
        for text in _dataset(data):
            yield tokenizer.encode(text)
    elif path.suffix in (".jsonl", ".ndjson"):
        for document in _documents(path):
            if document.messages is None:
                yield tokenizer.encode(document.text or "")
            else:
                yield tokenizer.encode_chat(document.messages, add_generation_prompt=False)
    else:
        yield tokenizer.encode(_read(path))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(f"{path} is not UTF-8 text (byte {error.start}): convert it first") from error
    except OSError as error:
        raise RequestError(f"cannot read the calibration data {path}: {error.strerror}") from error


def _documents(path: Path) -> Iterator[_Document]:
    for number, line in enumerate(_read(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            yield _Document.model_validate(json.loads(line))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            message = first["msg"].removeprefix("Value error, ")
            raise RequestError(f"{path}, line {number}: {where + ': ' if where else ''}{message}") from error
        except ValueError as error:
            raise RequestError(f"{path}, line {number} is not JSON ({error})") from error


def _dataset(name: str) -> Iterator[str]:
    if not _DATASET_NAME.fullmatch(name) or name.endswith(_FILE_SUFFIXES):
        raise RequestError(f"there is no calibration file {name!r}")
    if importlib.util.find_spec("datasets") is None:
        raise RequestError(
            f"there is no calibration file {name!r}; to take it for a data set's name, `pip install datasets`"
        )
    import datasets

    # The library logs each attempt to reach the Hub; the error below reports the outcome.
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
    try:
        # Streaming, since a few hundred windows do not need the whole data set on disk.
        rows = datasets.load_dataset(name, split="train", streaming=True)
        for row in rows:
            if not isinstance(row.get("text"), str):
                raise RequestError(f"the data set {name} has no column of texts named text: export it as JSONL first")
            yield row["text"]
    except RequestError:
        raise
    except Exception as error:  # the library documents no common class
        reason = " ".join(str(error).split())[:200]
        raise RequestError(f"{name!r} is neither a file nor a data set that can be read: {reason}") from error
