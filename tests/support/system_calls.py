"""What a process writes and connects to, by strace."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

# Calls with a path that may create, change or remove a file; calls that open one; calls that reach another process.
_CHANGES = re.compile(
    "creat|mkdir(at)?|mknod(at)?|rename(at2?)?|link(at)?|symlink(at)?|unlink(at)?|rmdir|truncate|chmod|l?chown|"
    "fchmodat|fchownat|utimensat|setxattr"
)
_OPENS = ("open", "openat", "openat2")
_NETWORK = ("connect", "sendto", "sendmsg", "sendmmsg", "bind", "listen")
_FOR_WRITING = re.compile(r"O_WRONLY|O_RDWR|O_CREAT|O_TRUNC|O_TMPFILE")
_CALL = re.compile(r"^(?:\[pid +\d+\] |\d+ +)?(\w+)\((.*)$")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
# Environment variables with which ONNX Runtime recognizes tests, in which it has no telemetry, and its own.
_TEST_VARIABLES = re.compile(
    "CI|TF_BUILD|GITHUB_ACTIONS|GITLAB_CI|CIRCLECI|TRAVIS|JENKINS_URL|BUILDKITE|CODEBUILD_BUILD_ID|TEAMCITY_VERSION|"
    "APPVEYOR|BITBUCKET_BUILD_NUMBER|ORT_RUNNING_UNIT_TESTS|ORT_DISABLE_TELEMETRY|PYTEST_.*"
)


def new_user(directory: Path, **more: str) -> dict[str, str]:
    """The environment of a user whose home, cache and temporary directories, made in `directory`, are empty.

    Variables with which a library recognizes tests are not set.
    """
    names = {
        "HOME": "home",
        "XDG_CACHE_HOME": "cache",
        "XDG_CONFIG_HOME": "config",
        "XDG_DATA_HOME": "data",
        "XDG_STATE_HOME": "state",
        "TMPDIR": "temporary",
    }
    for name in names.values():
        (directory / name).mkdir()
    kept = {name: value for name, value in os.environ.items() if not _TEST_VARIABLES.fullmatch(name)}
    own = {variable: str(directory / name) for variable, name in names.items()}
    return {**kept, **own, "PYTHONDONTWRITEBYTECODE": "1", **more}


def files_in(directory: Path) -> list[str]:
    """Files and directories that a program left in the directories of `new_user`."""
    return sorted(str(path.relative_to(directory)) for top in directory.iterdir() for path in top.rglob("*"))


def traced(
    command: Sequence[str | Path], environment: Mapping[str, str], log: Path, stdin: str = ""
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run a command under strace.

    Returns:
        The finished process, and the system calls of it and of its children that write a file or reach another process,
        without those that failed and those on devices and on its own /proc.
    """
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    # A whole path in strace's output, whatever its length.
    done = subprocess.run(
        [strace, "-f", "-qq", "-s", "4096", "-e", "trace=%file,%network", "-o", log, *command],
        input=stdin,
        capture_output=True,
        text=True,
        env=dict(environment),
        timeout=300,
        check=False,
    )
    if not log.exists() or not log.read_text(errors="replace").strip():
        pytest.skip(f"strace cannot trace here: {done.stderr.strip()}")
    return done, [call for call in map(_relevant, log.read_text(errors="replace").splitlines()) if call]


def _relevant(line: str) -> str | None:
    found = _CALL.match(line)
    if found is None:
        return None
    name, arguments = found.groups()
    if name in _NETWORK:
        return line  # also if it failed: the attempt counts
    path = _QUOTED.search(arguments)
    if path is None or re.search(r"\) += -1 E", arguments) or path[1].startswith(("/dev/", "/proc/")):
        return None
    opened = name in _OPENS and _FOR_WRITING.search(arguments[path.end() :])
    return line if opened or _CHANGES.fullmatch(name) else None
