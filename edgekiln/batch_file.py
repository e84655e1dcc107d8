"""Answer the requests of a JSONL file into another one, and go on where an earlier run was ended."""

import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from edgekiln.api_arguments import ChatKeywords
from edgekiln.batch import BatchAnswer, generate_batch, request_id
from edgekiln.batch_requests import LineError, RequestFile
from edgekiln.engine.output_file import check_output_file
from edgekiln.errors import RequestError

if TYPE_CHECKING:
    from edgekiln.api import Engine

# progress(answered, all)
BatchProgress = Callable[[int, int], None]


@dataclass
class BatchCounts:
    """What became of the requests of a file.

    Attributes:
        total: requests.
        kept: of these, answers that the file had already.
        errors: lines with an error, kept ones among them.
        cut: answers that ended at the limit on their tokens, kept ones among them.
        prompt_tokens, completion_tokens: of the new answers.
    """

    total: int = 0
    kept: int = 0
    errors: int = 0
    cut: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


def answer_file(
    engine: "Engine",
    source: RequestFile,
    out: Path | None,
    parallel: int | None,
    progress: BatchProgress | None,
    options: ChatKeywords,
    *,
    chat: bool = False,
    system: str | None = None,
) -> BatchCounts:
    """See `Engine.generate_file`.

    Args:
        engine, source, parallel, progress, options: as there.
        out: the file of answers; None: stdout.
        chat, system: as for `RequestFile.requests`.
    """
    engine.check_options(**options)
    counts = BatchCounts(total=source.count())
    requests = source.requests(chat, system)
    if out is None:
        _answer(engine, requests, sys.stdout.buffer, counts, parallel, progress, options)
        return counts
    real = check_output_file(out, [engine.path])
    if source.path is not None and real.exists() and os.path.samefile(source.path, real):
        raise RequestError(f"{out} is the file of the requests: give another file")
    regular = real.is_file() or not real.exists()
    try:
        file = os.fdopen(os.open(real, os.O_RDWR | os.O_CREAT, 0o666), "r+b") if regular else real.open("wb")
    except OSError as error:
        raise RequestError(f"cannot write {out}: {error.strerror}") from error
    with file:
        if regular:
            _keep(out, file, requests, counts)
        _answer(engine, requests, file, counts, parallel, progress, options)
    return counts


def _keep(path: Path, file: BinaryIO, requests: Iterator[dict[str, Any] | LineError], counts: BatchCounts) -> None:
    """Pass over the answers that a file has, and the requests that they answer; cut off a line without its end.

    Raises:
        RequestError: a line is no answer to the request in its place.
    """
    end = 0
    for number, line in enumerate(file, 1):
        if not line.endswith(b"\n"):
            start = f'{{"index": {counts.kept}, '.encode()
            if not (line.startswith(start) or start.startswith(line)):
                raise RequestError(f"line {number} of {path} is no answer of a batch: give another file")
            break
        answer = _parsed(line)
        if answer is None or answer.get("index") != counts.kept:
            raise RequestError(f"line {number} of {path} is no answer of a batch: give another file")
        request = next(requests, None)
        if request is None or answer.get("id") != request_id(request):
            raise RequestError(f"line {number} of {path} answers another request: give another file")
        counts.kept += 1
        counts.errors += "error" in answer
        counts.cut += answer.get("finish_reason") == "length"
        end += len(line)
    file.truncate(end)
    file.seek(end)


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return answer if isinstance(answer, dict) else None


def _answer(
    engine: "Engine",
    requests: Iterator[dict[str, Any] | LineError],
    file: BinaryIO,
    counts: BatchCounts,
    parallel: int | None,
    progress: BatchProgress | None,
    options: ChatKeywords,
) -> None:
    first = next(requests, None)
    if first is None:  # nothing to load the engine for
        return
    with closing(generate_batch(engine, itertools.chain([first], requests), parallel, options)) as answers:
        for answer in answers:
            file.write(_line(answer, counts.kept))
            file.flush()
            counts.errors += answer.error is not None
            counts.cut += answer.finish_reason == "length"
            counts.prompt_tokens += answer.prompt_tokens
            counts.completion_tokens += len(answer.tokens)
            if progress is not None:
                progress(counts.kept + answer.index + 1, counts.total)


def _line(answer: BatchAnswer, kept: int) -> bytes:
    """A line of the file of answers."""
    value: dict[str, Any] = {"index": kept + answer.index}
    if answer.id is not None:
        value["id"] = answer.id
    if answer.error is not None:
        value["error"] = answer.error
    else:
        value |= {"text": answer.text, "finish_reason": answer.finish_reason, "usage": usage(answer)}
        if any(token.logprob is not None for token in answer.tokens):
            value["logprobs"] = [
                {"id": token.id, "text": token.text, "logprob": token.logprob, "top_logprobs": token.top_logprobs}
                for token in answer.tokens
            ]
    try:
        return (json.dumps(value, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:  # an id with a lone surrogate
        return (json.dumps(value) + "\n").encode()


def usage(answer: BatchAnswer) -> dict[str, int]:
    """The numbers of tokens of an answer, as OpenAI's API has them."""
    prompt, completion = answer.prompt_tokens, len(answer.tokens)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
