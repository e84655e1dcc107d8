"""Fetching a model from the Hugging Face hub into its cache: resumable, only the files an engine is built from."""

import io
import os
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

from edgekiln.errors import SourceError
from edgekiln.sources.base import Progress
from edgekiln.sources.directory import CONFIG_FILE, check_config, read_json
from edgekiln.sources.weight_conversion import one_line

_WANTED = ["*.json", "*.jinja", "*.safetensors", "tokenizer.model"]
# Folders hold other formats of the same weights; consolidated files are Mistral's second copy.
_UNWANTED = ["*/*", "consolidated*"]
_PATIENCE_S = 15.0


def download(reference: str, trust_remote_code: bool, progress: Progress) -> Path:
    """Bring `owner/name[@revision]` to the local cache and return its directory; what is there already is kept.

    config.json comes first, so that a checkpoint that cannot be read is refused before its weights are fetched.

    Raises:
        SourceError: no such repository, revision or permission, no network, or no safetensors in it.
        UnsupportedModelError: as `check_config`.
    """
    name, _, revision = reference.partition("@")
    progress(f"downloading {reference}", 0.0)
    if not constants.HF_HUB_OFFLINE and try_to_load_from_cache(name, CONFIG_FILE, revision=revision or None) is None:
        # A download retries for half a minute before it says that there is no network or no such model; this does not.
        _fetch(reference, HfApi().model_info, name, revision=revision or None, timeout=_PATIENCE_S)
    config = _fetch(reference, hf_hub_download, name, CONFIG_FILE, revision=revision or None)
    check_config(read_json(Path(config)), name, trust_remote_code)
    options: dict[str, Any] = {
        "revision": revision or None,
        "allow_patterns": [*_WANTED, *(["*.py"] if trust_remote_code else [])],
        "ignore_patterns": _UNWANTED,
    }
    reporter = _reporter(f"downloading {reference}", _bytes_to_come(name, options), progress)
    directory = Path(_fetch(reference, snapshot_download, name, tqdm_class=reporter, **options))
    if not any(directory.glob("*.safetensors")):
        raise SourceError(
            f"{reference} has no safetensors weights, and pickled ones are never loaded: use another model"
        )
    progress(f"downloading {reference}", 1.0)
    return directory


def _bytes_to_come(name: str, options: dict[str, Any]) -> int:
    try:
        planned = snapshot_download(name, dry_run=True, **options)
    except (OSError, httpx.HTTPError):
        # Only progress is lost: whether the download itself can go on is for the download to say.
        return 0
    return sum(file.file_size or 0 for file in planned if file.will_download)


def _fetch(reference: str, call: Any, *args: Any, **options: Any) -> Any:
    try:
        return call(*args, **options)
    except GatedRepoError as error:
        raise SourceError(
            f"{reference} asks for its terms to be accepted: do so on its page, then log in with `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise SourceError(f"{reference}: the hub has no such revision of that model") from error
    except RepositoryNotFoundError as error:
        raise SourceError(
            f"no model {reference!r}: neither a directory or file here nor a public model on the hub"
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, httpx.TransportError) as error:
        why = "offline mode is set" if constants.HF_HUB_OFFLINE else "the hub cannot be reached"
        raise SourceError(
            f"no model {reference!r}: no such directory or file here, it is not in the download cache, and {why}"
        ) from error
    except EntryNotFoundError as error:
        raise SourceError(
            f"{reference} on the hub has no {CONFIG_FILE}: if it holds GGUF files, download one and give its path"
        ) from error
    except HFValidationError as error:
        raise SourceError(f"{reference!r} is not a hub id (owner/name)") from error
    except HfHubHTTPError as error:
        raise SourceError(f"the hub refused {reference} ({one_line(error)}): try again") from error
    except OSError as error:
        where = constants.HF_HUB_CACHE
        raise SourceError(
            f"cannot keep {reference} in {where}: {os.strerror(error.errno) if error.errno else error}, set HF_HOME"
        ) from error


def _reporter(step: str, total: int, progress: Progress) -> type[tqdm]:
    """A tqdm that draws nothing and passes on how many of the `total` bytes are here."""

    class Reporter(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            self._counts_bytes = options.get("unit") == "B"
            options.pop("name", None)
            # Without an interval every update is shown; with one a quick download would go from nothing to all.
            super().__init__(
                *args, **{**options, "disable": False, "file": io.StringIO(), "mininterval": 0, "miniters": 1}
            )

        def display(self, *_args: Any, **_options: Any) -> bool:
            # The hub's own total grows while files are started; the planned one does not.
            if self._counts_bytes and total:
                progress(step, min(1.0, self.n / total))
            return True

    return Reporter
