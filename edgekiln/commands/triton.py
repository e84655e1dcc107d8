"""`edgekiln triton`: add an engine to a model repository of Triton Inference Server."""

from pathlib import Path

import click

from edgekiln.commands._options.common import engine_argument, json_option, verbose_option
from edgekiln.commands._output import print_json
from edgekiln.commands._signals import exit_on_signal


@click.command("triton", short_help="Add an engine to a Triton model repository.")
@engine_argument
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="REPO",
    required=True,
    help="Model repository; created if it does not exist.",
)
@click.option("--name", metavar="NAME", help="Name of the model [the engine's name].")
@click.option(
    "--instances",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Instances of the model that Triton runs.",
)
@json_option
@verbose_option
def command(*, engine: Path, output: Path, name: str | None, instances: int, as_json: bool) -> None:
    """Write ENGINE's files and a config.pbtxt into a model repository of Triton Inference Server.

    A request carries token ids, positions and the past keys and values, the reply logits and the present keys and
    values.
    """
    from edgekiln.integrations.triton import write_repository

    with exit_on_signal():
        model = write_repository(engine, output, name, instances)
    if as_json:
        print_json({"model": str(model), "name": model.name})
    else:
        click.echo(f"{model}: start the server with `tritonserver --model-repository {output}`")
