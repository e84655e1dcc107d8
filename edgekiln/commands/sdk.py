"""`edgekiln sdk`: where the C and C++ library of this installation is."""

from pathlib import Path

import click

from edgekiln.commands._options.common import json_option, verbose_option
from edgekiln.commands._output import print_json
from edgekiln.errors import RequestError

_HEADER = Path("edgekiln", "edgekiln.h")


@click.command("sdk", short_help="Show where the C and C++ library is.")
@click.option("--cmake-dir", "only", flag_value="cmake-dir", help="Print the folder for CMake's edgekiln_DIR only.")
@click.option("--include-dir", "only", flag_value="include-dir", help="Print the folder of the headers only.")
@click.option("--library-dir", "only", flag_value="library-dir", help="Print the folder of the libraries only.")
@click.option(
    "--pkg-config-dir", "only", flag_value="pkg-config-dir", help="Print the folder for PKG_CONFIG_PATH only."
)
@json_option
@verbose_option
def command(*, only: str | None, as_json: bool) -> None:
    """Show the folders of libedgekiln, its headers, its CMake package and its pkg-config file."""
    from edgekiln.runtimes.ort.kernels import LIBRARY, in_checkout

    libraries = LIBRARY.parent
    folders = {
        "cmake-dir": libraries / "cmake" / "edgekiln",
        "include-dir": libraries.parent / "include",
        "library-dir": libraries,
        "pkg-config-dir": libraries / "pkgconfig",
    }
    if not (folders["include-dir"] / _HEADER).is_file():
        fix = (
            "build and install one with `make cpp`, see docs/embedding.md"
            if in_checkout()
            else (
                "install a wheel of edgekiln for this processor, or reinstall it where GCC 12 or later, PCRE2, "
                "utf8proc, OpenSSL and nlohmann-json are installed"
            )
        )
        raise RequestError(f"the installation of edgekiln in {libraries.parent} has no libedgekiln: {fix}")
    if only:
        click.echo(folders[only])
    elif as_json:
        print_json({name: str(folder) for name, folder in folders.items()})
    else:
        for name, folder in folders.items():
            click.echo(f"{name:<16}{folder}")
