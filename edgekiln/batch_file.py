"""Answer the requests of a JSONL file into another one, and go on where an earlier run was ended."""

import contextlib
import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from edgekiln.api_arguments import ChatKeywords
from edgekiln.batch import BatchAnswer, generate_batch, request_id, usage
from edgekiln.batch_digest import BatchDigest
from edgekiln.batch_openai import ID_PREFIX, OpenAIRequest, openai_line, openai_outcome
from edgekiln.batch_requests import LineError, RequestFile
from edgekiln.engine.output_file import check_output_file
from edgekiln.errors import RequestError, is_disk_full

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
        empty: answers without text, kept ones among them.
        prompt_tokens, completion_tokens: of the new answers.
    """

    total: int = 0
    kept: int = 0
    errors: int = 0
    cut: int = 0
    empty: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True)
class _Taken:
    """What the line of an answer has of its request.

    Attributes:
        id: of the request.
        digest: of the request.
        openai: the line is one of OpenAI's batch API.
        url: of such a line that is sound.
    """

    id: str | int | None
    digest: str
    openai: bool
    url: str | None

    def is_answered_by(self, answer: dict[str, Any], index: int) -> bool:
        """Whether a line answers the request at `index`."""
        if self.openai:
            return (answer.get("custom_id"), answer.get("id")) == (self.id, f"{ID_PREFIX}{self.digest}")
        return (answer.get("index"), answer.get("id"), answer.get("request")) == (index, self.id, self.digest)


class _Requests:
    """The requests of a file that have no answer yet, and what is kept of those that were taken and not answered.

    Attributes:
        taken: in the order of the requests.
    """

    def __init__(self, requests: Iterator[dict[str, Any] | LineError], digest: BatchDigest) -> None:
        self.taken: deque[_Taken] = deque()
        self._requests = requests
        self._digest = digest

    def __iter__(self) -> Iterator[dict[str, Any] | LineError]:
        return self

    def __next__(self) -> dict[str, Any] | LineError:
        request = next(self._requests)
        url = request.url if isinstance(request, OpenAIRequest) else None
        openai = url is not None or (isinstance(request, LineError) and request.openai)
        self.taken.append(_Taken(request_id(request), self._digest.of(request), openai, url))
        return request


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
    requests = _Requests(source.requests(chat, system), BatchDigest(engine, options))
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
            _lock(out, file)
            _keep(out, file, requests, counts)
        try:
            _answer(engine, requests, file, counts, parallel, progress, options)
        except _WriteError as error:
            with contextlib.suppress(OSError):
                file.close()  # which tries to write the rest again
            reason = "no space left on the disk" if is_disk_full(error.reason) else error.reason.strerror
            raise RequestError(f"cannot write {out}: {reason}; later, the same command goes on") from error
    return counts


class _WriteError(Exception):
    """An answer could not be written."""

    def __init__(self, reason: OSError) -> None:
        super().__init__(str(reason))
        self.reason = reason


def _lock(path: Path, file: BinaryIO) -> None:
    """Keep other processes from answering into the same file at the same time.

    Raises:
        RequestError: one does already.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise RequestError(f"another process writes answers to {path}: wait for it, or give another file") from error
    except OSError:  # a file system without locks
        return


def _keep(path: Path, file: BinaryIO, requests: _Requests, counts: BatchCounts) -> None:
    """Pass over the answers that a file has, and the requests that they answer; cut off a line without its end.

    Raises:
        RequestError: a line is no answer to the request in its place.
    """
    end = 0
    for number, line in enumerate(file, 1):
        if not line.endswith(b"\n"):
            starts = (f'{{"index": {counts.kept}, '.encode(), f'{{"id": "{ID_PREFIX}'.encode())
            if not any(line.startswith(start) or start.startswith(line) for start in starts):
                raise RequestError(f"line {number} of {path} is no answer of a batch: give another file")
            break
        answer = _parsed(line)
        if answer is None or (answer.get("index") != counts.kept and "custom_id" not in answer):
            raise RequestError(f"line {number} of {path} is no answer of a batch: give another file")
        if next(requests, None) is None or not requests.taken.popleft().is_answered_by(answer, counts.kept):
            raise RequestError(
                f"line {number} of {path} is for another request, other options or another engine: give another file"
            )
        counts.kept += 1
        if "custom_id" in answer:
            error, finish_reason, text = openai_outcome(answer)
        else:
            error, finish_reason, text = "error" in answer, answer.get("finish_reason"), answer.get("text")
        counts.errors += error
        counts.cut += finish_reason == "length"
        counts.empty += text == ""
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
    requests: _Requests,
    file: BinaryIO,
    counts: BatchCounts,
    parallel: int | None,
    progress: BatchProgress | None,
    options: ChatKeywords,
) -> None:
    if counts.kept == counts.total:  # nothing to load the engine for
        return
    with contextlib.closing(generate_batch(engine, requests, parallel, options)) as answers:
        for answer in answers:
            line = _line(answer, counts.kept, requests.taken.popleft(), engine)
            try:
                file.write(line)
                file.flush()
            except BrokenPipeError:
                raise
            except OSError as error:
                if file is sys.stdout.buffer:
                    raise
                raise _WriteError(error) from error
            counts.errors += answer.error is not None
            counts.cut += answer.finish_reason == "length"
            counts.empty += answer.error is None and not answer.text
            counts.prompt_tokens += answer.prompt_tokens
            counts.completion_tokens += len(answer.tokens)
            if progress is not None:
                progress(counts.kept + answer.index + 1, counts.total)


def _line(answer: BatchAnswer, kept: int, request: _Taken, engine: "Engine") -> bytes:
    """A line of the file of answers."""
    if request.openai:
        value = openai_line(answer, request.url, request.digest, engine.path.resolve().name)
    else:
        value = _own_line(answer, kept, request.digest)
    try:
        return (json.dumps(value, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:  # an id with a lone surrogate
        return (json.dumps(value) + "\n").encode()


def _own_line(answer: BatchAnswer, kept: int, digest: str) -> dict[str, Any]:
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
    value["request"] = digest
    return value
