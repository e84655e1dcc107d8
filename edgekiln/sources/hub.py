"""Download a checkpoint from the Hugging Face hub into the hub cache.

Only the files that an engine is built from are fetched. An interrupted download is resumed.
"""

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

from edgekiln.errors import SourceError, one_line
from edgekiln.progress import Progress
from edgekiln.sources.directory import CONFIG_FILE, check_config
from edgekiln.sources.json_file import read_json

_WANTED = ["*.json", "*.jinja", "*.safetensors", "tokenizer.model"]
# Subdirectories but that of the chat templates hold the same weights in other formats; Mistral's consolidated files are
# a second copy of them.
_UNWANTED = ["*/*.json", "*/*.safetensors", "*/*.py", "consolidated*"]
_TIMEOUT_S = 15.0


def download(model_id: str, trust_remote_code: bool, progress: Progress) -> Path:
    """Download `owner/name[@revision]` to the hub cache; files that are there already are kept.

    config.json is downloaded and checked first, so that an unsupported checkpoint is refused before its weights are
    downloaded.

    Args:
        model_id: the hub id.
        trust_remote_code: also download the checkpoint's Python files.
        progress: called with the step and the share of all bytes downloaded, in [0, 1].

    Returns:
        The checkpoint's directory in the hub cache.

    Raises:
        SourceError: no such repository, revision or permission, no network, or no safetensors in it.
        UnsupportedModelError: as `check_config`.
    """
    name, _, revision = model_id.partition("@")
    progress(f"downloading {model_id}", 0.0)
    if not constants.HF_HUB_OFFLINE and try_to_load_from_cache(name, CONFIG_FILE, revision=revision or None) is None:
        # hf_hub_download retries for half a minute before it reports a missing network or model; model_info does not.
        _fetch(model_id, HfApi().model_info, name, revision=revision or None, timeout=_TIMEOUT_S)
    config = _fetch(model_id, hf_hub_download, name, CONFIG_FILE, revision=revision or None)
    check_config(read_json(Path(config)), name, trust_remote_code)
    options: dict[str, Any] = {
        "revision": revision or None,
        "allow_patterns": [*_WANTED, *(["*.py"] if trust_remote_code else [])],
        "ignore_patterns": _UNWANTED,
    }
    reporter = _reporter(f"downloading {model_id}", _bytes_to_download(name, options), progress)
    directory = Path(_fetch(model_id, snapshot_download, name, tqdm_class=reporter, **options))
    if not any(directory.glob("*.safetensors")):
        raise SourceError(
            f"{model_id} has no safetensors weights, and pickled ones are never loaded: use another model"
        )
    progress(f"downloading {model_id}", 1.0)
    return directory


def _bytes_to_download(name: str, options: dict[str, Any]) -> int:
    try:
        planned = snapshot_download(name, dry_run=True, **options)
    except (OSError, httpx.HTTPError):
        # Without the total there is only no progress; the download itself reports the error, if it persists.
        return 0
    return sum(file.file_size or 0 for file in planned if file.will_download)


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


def _reporter(step: str, total: int, progress: Progress) -> type[tqdm]:
    """A tqdm class that draws nothing and reports to `progress` how many of the `total` bytes are downloaded."""

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
                progress(step, min(1.0, self.n / total))
            return True

    return Reporter
