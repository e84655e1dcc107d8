"""`edgekiln pull`: download a model from the Hugging Face hub."""

import os
from pathlib import Path

import click

from edgekiln.commands._options.common import json_option, verbose_option
from edgekiln.commands._output import print_json, progress_report
from edgekiln.errors import RequestError
from edgekiln.extras import requires_extra
from edgekiln.sources.resolve import ALIASES, HUB_ID, alias_path
from edgekiln.units import size_text


@click.command("pull", short_help="Download a model.")
@click.argument("model")
@click.option("--revision", metavar="REV", help="Branch, tag or commit  [main].")
@click.option("--dry-run", is_flag=True, help="Only tell how much there is to download.")
@json_option
@verbose_option
def command(*, model: str, revision: str | None, dry_run: bool, as_json: bool) -> None:
    """Download MODEL, a hub id owner/name[@revision], into the hub's cache, and print its directory.

    Only files that engines are built from are fetched, after their size is told; an interrupted download is resumed.
    HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE are respected.
    """
    if model in ALIASES:
        path = alias_path(model, ALIASES[model])
        click.echo(f"{model} is in the package {ALIASES[model].package}, there is nothing to download", err=True)
        _tell(model, path, 1, path.stat().st_size, 0, as_json)
        return
    if os.path.exists(model):
        raise RequestError(f"{model} is here already: build an engine with `edgekiln engine {model}`")
    if revision is not None and "@" in model:
        raise RequestError(f"{model} has a revision, and --revision gives another one: give one of them")
    model_id = model if revision is None else f"{model}@{revision}"
    if not HUB_ID.fullmatch(model_id):
        raise RequestError(f"{model_id!r} is not a hub id: give owner/name or owner/name@revision")
    with requires_extra("hub"):
        from edgekiln.sources.hub import download, planned_download
    planned = planned_download(model_id)
    missing = f"{size_text(planned.missing)} to download" if planned.missing else "all of it here already"
    click.echo(f"{model_id}: {planned.files} files, {size_text(planned.nbytes)}, {missing}", err=True)
    directory = None
    if not dry_run:
        with progress_report() as report:
            directory = download(model_id, trust_remote_code=False, progress=report, planned=planned)
    _tell(model_id, directory, planned.files, planned.nbytes, planned.missing, as_json)


def _tell(model: str, path: Path | None, files: int, nbytes: int, missing: int, as_json: bool) -> None:
    if as_json:
        where = None if path is None else str(path)
        print_json({"model": model, "path": where, "files": files, "bytes": nbytes, "missing_bytes": missing})
    elif path is not None:
        click.echo(path)
