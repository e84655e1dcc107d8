"""`edgekiln verify`: whether the files of an engine are those that were built, and whether it runs."""

from pathlib import Path

import click

from edgekiln.commands._options.common import engine_argument, json_option, verbose_option
from edgekiln.commands._output import print_json, progress_report
from edgekiln.engine.directory import sha256
from edgekiln.engine.manifest import EngineManifest, read_manifest
from edgekiln.errors import EdgekilnError, EngineError
from edgekiln.progress import StepProgress
from edgekiln.units import size_text

_NEW_TOKENS = 8


@click.command("verify", short_help="Check the files of an engine, and run it.")
@engine_argument
@json_option
@verbose_option
def command(*, engine: Path, as_json: bool) -> None:
    """Compare the SHA-256 of every file of ENGINE with engine.json, and generate a few tokens where its target runs.

    Exits with 2 and names the files that are missing, damaged or edited.
    """
    manifest = read_manifest(engine, verify=False)
    with progress_report() as report:
        damaged = _damaged(engine, manifest, lambda done: report("hashing", done))
    why = None if damaged else _try(engine, manifest)
    size = sum((engine / name).stat().st_size for name in manifest.files)
    if as_json:
        print_json(
            {
                "engine": str(engine),
                "files": {name: "damaged" if name in damaged else "sound" for name in manifest.files},
                "bytes": size,
                "ran": not damaged and why is None,
                "not_run_because": why,
            }
        )
    if damaged:
        names, differs = (" and ".join(damaged), "differ") if damaged[1:] else (damaged[0], "differs")
        raise EngineError(
            f"{engine}: {names} {differs} from what was built (SHA-256): build the engine again or copy it again"
        )
    if not as_json:
        ran = f"not run: {why}" if why else f"generated {_NEW_TOKENS} tokens"
        click.echo(f"{engine}: {len(manifest.files)} files, {size_text(size)}, all sound; {ran}")


def _damaged(engine: Path, manifest: EngineManifest, progress: StepProgress) -> list[str]:
    """Names of the files whose SHA-256 differs."""
    sizes = {name: (engine / name).stat().st_size for name in manifest.files}
    damaged, done = [], 0
    for name, size in sizes.items():
        if sha256(engine / name) != manifest.files[name]:
            damaged.append(name)
        done += size
        progress(done / (sum(sizes.values()) or 1))
    return damaged


def _try(engine: Path, manifest: EngineManifest) -> str | None:
    """Why the engine is not run here, None where it ran; EngineError where it does not work."""
    from edgekiln.pipeline.smoke_run import try_engine

    try:
        return try_engine(engine, manifest, _NEW_TOKENS)
    except EdgekilnError as error:
        raise EngineError(f"{engine}: the files are those that were built, but it does not run: {error}") from error
