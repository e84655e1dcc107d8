"""Download a checkpoint from the Hugging Face hub into the hub cache.

Only the files that an engine is built from are fetched. An interrupted download is resumed,
see `edgekiln.sources.resumable`. Needs huggingface_hub only.
"""

import io
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from tqdm import tqdm

from edgekiln.errors import SourceError, one_line
from edgekiln.progress import Progress, no_progress
from edgekiln.sources import resumable
from edgekiln.sources.json_file import read_json
from edgekiln.sources.resumable import LARGE, RemoteFile
from edgekiln.units import size_text

_WANTED = ["*.json", "*.jinja", "*.safetensors", "tokenizer.model"]
# Subdirectories but that of the chat templates hold the same weights in other formats; Mistral's consolidated files are
# a second copy of them.
_UNWANTED = ["*/*.json", "*/*.safetensors", "*/*.py", "consolidated*"]
_TIMEOUT_S = 15.0
CONFIG_FILE = "config.json"
# check(config, model): raises if a config.json is not supported.
ConfigCheck = Callable[[dict[str, Any], str], None]


@dataclass(frozen=True)
class Download:
    """What a download of a model fetches.

    Attributes:
        files: all files of the model that an engine is built from.
        nbytes: their size.
        missing: bytes of those that are not in the download cache yet.
        large: those of the missing ones that are downloaded one by one.
    """

    files: int
    nbytes: int
    missing: int
    large: tuple[RemoteFile, ...] = ()


def planned_download(model_id: str, trust_remote_code: bool = False, check: ConfigCheck | None = None) -> Download:
    """How large a model `owner/name[@revision]` is, and how much of it is to be downloaded.

    config.json is downloaded and checked first, so that an unsupported checkpoint is refused before its weights are
    downloaded.

    Args:
        model_id: the hub id.
        trust_remote_code: count the checkpoint's Python files, too.
        check: called with the contents of config.json and the model's name; raises if it is not supported.

    Raises:
        SourceError: no such repository, revision or permission, no network, or no config.json in it.
        UnsupportedModelError: as `check`.
    """
    name, revision = _parts(model_id)
    if not constants.HF_HUB_OFFLINE and try_to_load_from_cache(name, CONFIG_FILE, revision=revision) is None:
        # hf_hub_download retries for half a minute before it reports a missing network or model; model_info does not.
        _fetch(model_id, HfApi().model_info, name, revision=revision, timeout=_TIMEOUT_S)
    config = _fetch(model_id, hf_hub_download, name, CONFIG_FILE, revision=revision)
    if check is not None:
        check(read_json(Path(config)), name)
    options = _options(revision, trust_remote_code)
    try:
        planned = snapshot_download(name, dry_run=True, tqdm_class=_reporter("", 0, no_progress), **options)
    except (OSError, httpx.HTTPError):  # offline: what is in the cache may be all that is needed
        directory = Path(_fetch(model_id, snapshot_download, name, local_files_only=True, **options))
        present = [file.stat().st_size for file in directory.rglob("*") if file.is_file()]
        return Download(len(present), sum(present), 0)
    sizes = [(file.file_size or 0, file.will_download) for file in planned]
    missing = sum(size for size, needed in sizes if needed)
    large = (file for file in planned if file.will_download and (file.file_size or 0) >= LARGE)
    files = tuple(RemoteFile(file.filename, file.commit_hash, file.file_size or 0) for file in large)
    return Download(len(sizes), sum(size for size, _ in sizes), missing, files)


def download(
    model_id: str,
    trust_remote_code: bool,
    progress: Progress,
    check: ConfigCheck | None = None,
    planned: Download | None = None,
) -> Path:
    """Download `owner/name[@revision]` to the hub cache; files that are there already are kept.

    Args:
        model_id: the hub id.
        trust_remote_code: also download the checkpoint's Python files.
        progress: called with the step and the share of all bytes downloaded, in [0, 1].
        check: as of `planned_download`.
        planned: what `planned_download` returned, if it was called before.

    Returns:
        The checkpoint's directory in the hub cache.

    Raises:
        SourceError: no such repository, revision or permission, no network, no safetensors in it, or too little space
            on the disk.
        UnsupportedModelError: as `check`.
    """
    step = f"downloading {model_id}"
    progress(step, 0.0)
    planned = planned or planned_download(model_id, trust_remote_code, check)
    _check_space(model_id, planned.missing - resumable.held(_parts(model_id)[0]))
    done = 0

    def arrived(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        progress(step, min(1.0, max(0, done) / max(1, planned.missing)))

    _fetch(model_id, resumable.fetch, _parts(model_id)[0], planned.large, arrived)
    directory = _snapshot(model_id, trust_remote_code, _reporter(step, planned.missing, progress, done))
    if not any(directory.glob("*.safetensors")):
        raise SourceError(
            f"{model_id} has no safetensors weights, and pickled ones are never loaded: use another model"
        )
    progress(step, 1.0)
    return directory


def download_small_files(model_id: str, trust_remote_code: bool, progress: Progress) -> Path:
    """Download configuration, tokenizer and chat templates of a model, without its weights; errors as `download`."""
    name, revision = _parts(model_id)
    options = _options(revision, trust_remote_code)
    options["ignore_patterns"] = [*options["ignore_patterns"], "*.safetensors"]
    quiet = _reporter("", 0, progress)
    return Path(_fetch(model_id, snapshot_download, name, tqdm_class=quiet, **options))


def download_data(repository: str, file: str, progress: Progress) -> Path:
    """Download one file of a data set's repository to the hub cache.

    Raises:
        SourceError: it is not in the cache, and cannot be downloaded.
    """
    step = f"downloading {repository}"
    progress(step, 0.0)
    found = try_to_load_from_cache(repository, file, repo_type="dataset")
    if isinstance(found, str):
        return Path(found)
    try:
        if not constants.HF_HUB_OFFLINE:
            HfApi().dataset_info(repository, timeout=_TIMEOUT_S)  # fails sooner than hf_hub_download
        quiet = _reporter(step, 0, progress)
        return Path(hf_hub_download(repository, file, repo_type="dataset", tqdm_class=quiet))
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, httpx.TransportError):
        why = "offline mode is set" if constants.HF_HUB_OFFLINE else "the hub cannot be reached"
    except (OSError, httpx.HTTPError) as failure:
        why = one_line(failure)
    raise SourceError(f"{file} of the data set {repository} is not in the download cache, and {why}: give a file")


def _parts(model_id: str) -> tuple[str, str | None]:
    name, _, revision = model_id.partition("@")
    return name, revision or None


def _options(revision: str | None, trust_remote_code: bool) -> dict[str, Any]:
    return {
        "revision": revision,
        "allow_patterns": [*_WANTED, *(["*.py"] if trust_remote_code else [])],
        "ignore_patterns": _UNWANTED,
    }


def _snapshot(model_id: str, trust_remote_code: bool, reporter: type[tqdm]) -> Path:
    name, revision = _parts(model_id)
    options = _options(revision, trust_remote_code)
    return Path(_fetch(model_id, snapshot_download, name, tqdm_class=reporter, **options))


def _check_space(model_id: str, nbytes: int) -> None:
    """Refuse a download that the disk of the download cache has no space for."""
    cache = Path(constants.HF_HUB_CACHE)
    parent = next(path for path in (cache, *cache.absolute().parents) if path.exists())
    free = shutil.disk_usage(parent).free
    if nbytes > free:
        raise SourceError(
            f"{model_id} is {size_text(nbytes)} to download, and the disk of {cache} has {size_text(free)} left: "
            "free some or set HF_HOME to a directory on another disk"
        )


def _fetch(model_id: str, call: Any, *args: Any, **options: Any) -> Any:
    try:
        return call(*args, **options)
    except GatedRepoError as error:
        raise SourceError(
            f"{model_id} asks for its terms to be accepted: do so on its page, then log in with `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise SourceError(f"{model_id}: the hub has no such revision of that model") from error
    except RepositoryNotFoundError as error:
        raise SourceError(
            f"no model {model_id!r}: neither a directory or file here nor a public model on the hub"
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, httpx.TransportError) as error:
        why = "offline mode is set" if constants.HF_HUB_OFFLINE else "the hub cannot be reached"
        raise SourceError(
            f"no model {model_id!r}: no such directory or file here, it is not in the download cache, and {why}"
        ) from error
    except EntryNotFoundError as error:
        raise SourceError(
            f"{model_id} on the hub has no {CONFIG_FILE}: if it holds GGUF files, download one and give its path"
        ) from error
    except HFValidationError as error:
        raise SourceError(f"{model_id!r} is not a hub id (owner/name)") from error
    except HfHubHTTPError as error:
        raise SourceError(f"the hub refused {model_id} ({one_line(error)}): try again") from error
    except OSError as error:
        where = constants.HF_HUB_CACHE
        raise SourceError(
            f"cannot keep {model_id} in {where}: {os.strerror(error.errno) if error.errno else error}, set HF_HOME"
        ) from error


def _reporter(step: str, total: int, progress: Progress, before: int = 0) -> type[tqdm]:
    """A tqdm class that draws nothing and reports to `progress` how many of the `total` bytes are downloaded.

    Of those, `before` were downloaded before it counts.
    """

    class Reporter(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            self._counts_bytes = options.get("unit") == "B"
            options.pop("name", None)
            # mininterval 0: tqdm then calls display for each update, also in a download of less than 0.1 s.
            super().__init__(
                *args, **{**options, "disable": False, "file": io.StringIO(), "mininterval": 0, "miniters": 1}
            )

        def display(self, *_args: Any, **_options: Any) -> bool:
            # tqdm's own total grows while huggingface_hub starts files; `total` is fixed.
            if self._counts_bytes and total:
                progress(step, min(1.0, (before + self.n) / total))
            return True

    return Reporter
