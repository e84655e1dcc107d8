"""`edgekiln triton`: an engine as a model of Triton Inference Server."""

from pathlib import Path

import click

from edgekiln.commands._options.common import engine_argument, json_option, print_json, verbose_option


@click.command("triton", short_help="Add an engine to a Triton model repository.")
@engine_argument
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="REPO",
    required=True,
    help="Model repository; made if it is not there.",
)
@click.option("--name", metavar="NAME", help="Name of the model; the engine's own by default.")
@click.option(
    "--instances", type=click.IntRange(min=1), default=1, show_default=True, metavar="N", help="Copies run at a time."
)
@json_option
@verbose_option
def command(*, engine: Path, output: Path, name: str | None, instances: int, as_json: bool) -> None:
    """Write ENGINE into a model repository of Triton Inference Server: its files and config.pbtxt.

    A client sends token ids, positions and past keys and values, and gets logits and the present keys and values back.
    """
    from edgekiln.integrations.triton import write_repository

    model = write_repository(engine, output, name, instances)
    if as_json:
        print_json({"model": str(model), "name": model.name})
    else:
        click.echo(f"{model}: start the server with `tritonserver --model-repository {output}`")
