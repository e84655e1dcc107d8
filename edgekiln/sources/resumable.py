"""Download large files of the hub so that a later process goes on where an interrupted one ended.

huggingface_hub keeps whole files only. What is fetched here is put among its files, which it then finds.
"""

import contextlib
import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import httpx
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from edgekiln.errors import SourceError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LARGE = 8 << 20  # bytes; huggingface_hub itself downloads smaller files
_SUFFIX = ".edgekiln-part"
_WORKERS = 4
_ATTEMPTS = 5  # without a byte between them
_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class RemoteFile:
    """A file of a model.

    Attributes:
        name: its path in the repository.
        commit: the commit that it is of.
        size: in bytes.
    """

    name: str
    commit: str
    size: int


def fetch(repository: str, files: Sequence[RemoteFile], progress: Callable[[int], None]) -> None:
    """Download files to the hub cache; those that are there already are kept.

    Args:
        repository: owner/name of a model.
        files: of it.
        progress: called with the number of bytes that were there or came, in any thread.

    Raises:
        OSError, httpx.HTTPError: as those of huggingface_hub.
        SourceError: what came is not the file.
    """
    stop = threading.Event()
    with ThreadPoolExecutor(_WORKERS) as pool:
        try:
            list(pool.map(lambda file: _fetch(repository, file, progress, stop), files))
        finally:
            stop.set()  # also where Ctrl-C ends the wait


def held(repository: str) -> int:
    """Bytes of files that an interrupted download of a model left."""
    return sum(part.stat().st_size for part in _blobs(repository).glob(f"*{_SUFFIX}"))


def _blobs(repository: str) -> Path:
    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model") / "blobs"


def _fetch(repository: str, file: RemoteFile, progress: Callable[[int], None], stop: threading.Event) -> None:
    url = hf_hub_url(repository, file.name, revision=file.commit)
    etag = get_hf_file_metadata(url).etag
    if etag is None:
        return
    blobs = _blobs(repository)
    blobs.mkdir(parents=True, exist_ok=True)
    blob, part = blobs / etag, blobs / f"{etag}{_SUFFIX}"
    if blob.exists():
        progress(file.size)
        return
    with part.open("a+b") as target, _locked(target) as ours:
        if not ours:
            return  # another process downloads it; huggingface_hub waits, or downloads it again
        progress(target.seek(0, 2))
        _append(url, target, file.size, progress, stop)
        if stop.is_set():
            return
        target.flush()
        target.seek(0)
        if _SHA256.fullmatch(etag) and hashlib.file_digest(target, "sha256").hexdigest() != etag:
            part.unlink()
            raise SourceError(f"{file.name} of {repository} was damaged on the way: download it again")
        part.replace(blob)


def _append(url: str, target: BinaryIO, size: int, progress: Callable[[int], None], stop: threading.Event) -> None:
    """Append what a file of `size` bytes still lacks; retries where the connection breaks."""
    attempts = 0
    while (start := target.tell()) < size and not stop.is_set():
        try:
            # Ranges are of the bytes that are sent, so these are not to be compressed.
            headers = build_hf_headers() | {"Accept-Encoding": "identity"}
            headers |= {"Range": f"bytes={start}-"} if start else {}
            with get_session().stream("GET", url, headers=headers, follow_redirects=True) as response:
                hf_raise_for_status(response)
                if start and response.status_code != httpx.codes.PARTIAL_CONTENT:
                    target.truncate(0)
                    progress(-start)
                for chunk in response.iter_bytes():
                    target.write(chunk)
                    progress(len(chunk))
                    if stop.is_set():
                        return
        except httpx.TransportError:
            attempts = 0 if target.tell() > start else attempts + 1
            if attempts == _ATTEMPTS:
                raise
            time.sleep(attempts)


@contextlib.contextmanager
def _locked(file: BinaryIO) -> Iterator[bool]:
    """Whether no other process downloads this file; until the block ends, none does."""
    if fcntl is None:
        yield True
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        yield False
        return
    yield True  # closing the file ends the lock
