"""Texts that are named in place of a file: read from archives on the Hugging Face hub."""

import zipfile
from dataclasses import dataclass

from edgekiln.errors import SourceError
from edgekiln.progress import Progress, no_progress


@dataclass(frozen=True)
class NamedText:
    """A text in a zip archive of a data set's repository.

    Attributes:
        repository: on the hub.
        archive: path of the zip file in it.
        member: path of the text, UTF-8, in the archive.
    """

    repository: str
    archive: str
    member: str


# WikiText-2's test split as one text, on which llama.cpp and others measure perplexity.
NAMED_TEXTS = {"wikitext-2": NamedText("ggml-org/ci", "wikitext-2-raw-v1.zip", "wikitext-2-raw/wiki.test.raw")}


def download_text(name: str, progress: Progress = no_progress) -> bytes:
    """The bytes of a text of `NAMED_TEXTS`, downloaded to the hub's cache on first use.

    Raises:
        SourceError: it is not in the cache and cannot be downloaded, or the archive is damaged.
    """
    from edgekiln.sources.hub import download_data

    text = NAMED_TEXTS[name]
    path = download_data(text.repository, text.archive, progress)
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read(text.member)
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise SourceError(f"{path} has no {text.member}: remove it and download it again") from error
