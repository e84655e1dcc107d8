"""The pack cache of an engine, as its files show it."""

import hashlib
import json
import os
import shutil
from pathlib import Path

from edgekiln.engine.directory import ENGINE_FILE, WEIGHTS_FILE
from edgekiln.engine.packed_directory import PACKED_DIRECTORY

LEAST = 256 << 20  # bytes of weights from which engines have one


def packed_file(engine: Path) -> Path | None:
    """The file of packed weights, None where there is none."""
    files = list((engine / PACKED_DIRECTORY).glob("*.packed"))
    assert len(files) <= 1
    return files[0] if files else None


def is_mapped(path: Path) -> bool:
    """Whether this process has mapped a file that has this name."""
    return any(line.endswith(f" {path.resolve()}\n") for line in Path("/proc/self/maps").read_text().splitlines(True))


def large_copy(engine: Path, directory: Path) -> Path:
    """A copy of an engine whose weights file is as large as engines with a pack cache have, by a hole at its end."""
    shutil.copytree(engine, directory)
    weights, manifest = directory / WEIGHTS_FILE, directory / ENGINE_FILE
    os.truncate(weights, LEAST)
    fields = json.loads(manifest.read_text())
    with weights.open("rb") as file:
        fields["files"][WEIGHTS_FILE] = hashlib.file_digest(file, "sha256").hexdigest()
    manifest.write_text(json.dumps(fields))
    return directory
