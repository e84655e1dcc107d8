"""Error messages: the name that was meant, and long values cut."""

from pathlib import Path

import pytest

from edgekiln.commands._hints import did_you_mean, shortened
from support.command import edgekiln, error_line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("rnu",), "No such command 'rnu'. Did you mean 'run'? (see `"),
        (("Serve",), "No such command 'Serve'. Did you mean 'serve'? (see `"),
        (("xyzzy",), "No such command 'xyzzy' (see `"),
        (("run", "e", "--max-token", "3"), "No such option '--max-token'. (Did you mean"),
        (("engine", "--quant", "int-4"), "Did you mean 'int4'? (see `"),
        (("engine", "--quant", "INT8"), "Did you mean 'int8'? (see `"),
        (("engine", "--target", "trtrtx"), "Did you mean 'trt-rtx'? (see `"),
        (("engine", "--quant", "xyzzy"), "'int8-static' (see `"),
    ],
)
def test_what_was_meant(arguments: tuple[str, ...], words: str) -> None:
    assert words in error_line(edgekiln(*arguments))


def test_nothing_is_like_it() -> None:
    assert did_you_mean("xyzzy", ["run", "chat"]) == ""


def test_long_values_are_cut_in_the_middle() -> None:
    short = "path " + "x" * 200
    assert shortened(short) == short
    assert shortened(f"{'a' * 500}{'b' * 500}: fix it") == f"{'a' * 100}...{'b' * 99}: fix it"
    text = "first " + "word " * 1000 + "last"
    assert len(shortened(text)) == 1003
    assert shortened(text).startswith("first ")
    assert shortened(text).endswith(" last")


def test_long_arguments(tmp_path: Path) -> None:
    for arguments in (
        ("x" * 10_000,),
        ("run", "x" * 10_000),
        ("run", "e", f"--{'x' * 10_000}"),
        ("run", "a b " * 9999),
    ):
        assert len(error_line(edgekiln(*arguments))) < 1100
