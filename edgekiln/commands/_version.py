"""What `edgekiln --version` says: the versions that a report of a problem needs."""

import importlib.metadata
import platform

import click

from edgekiln import __version__
from edgekiln.errors import RequestError

_RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt_rtx")


def show_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    """Print the versions and end, as the callback of an option."""
    if not value or ctx.resilient_parsing:
        return
    click.echo(f"edgekiln, version {__version__}")
    click.echo(
        f"{', '.join(_libraries())}; Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    )
    click.echo(f"CPU kernels: {_kernels()}")
    ctx.exit()


def _libraries() -> list[str]:
    found = []
    for name in _RUNTIMES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return found or ["no runtime (pip install 'edgekiln[cpu]')"]


def _kernels() -> str:
    from edgekiln.runtimes.ort.kernels import installed_library

    try:
        library = installed_library()
    except RequestError as error:
        return str(error)
    return "ONNX Runtime's, as edgekiln's are not installed" if library is None else library.instruction_set
