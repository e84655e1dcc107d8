"""Optional dependencies: name the pip extra that a missing module belongs to."""

import contextlib
from collections.abc import Iterator

from edgekiln.errors import EdgekilnError


@contextlib.contextmanager
def requires_extra(name: str) -> Iterator[None]:
    """Turn a failing third-party import in the `with` block into an error that names the extra to install.

    Raises:
        EdgekilnError: a module of another distribution is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "edgekiln":
            raise
        raise EdgekilnError(f"{error.name} is not installed: `pip install 'edgekiln[{name}]'`") from error
