"""`edgekiln pull` and texts by name, from a small server with the hub's protocol, in processes of their own."""

import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgekiln.sources.named_texts import NAMED_TEXTS
from support.command import edgekiln, error_line
from support.hub_server import HubServer, client_environment

# pull needs neither torch nor transformers.
COMMAND = (
    "import sys\n"
    "sys.modules.update(torch=None, transformers=None, safetensors=None)\n"
    "from edgekiln.cli import main\n"
    "main(sys.argv[1:])"
)
WEIGHTS = 12_000_000 // 512 * 512


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    root = tmp_path_factory.mktemp("hub")
    model, data = root / "model", root / "data"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "llama"}')
    (model / "model.safetensors").write_bytes(bytes(range(256)) * (WEIGHTS // 256))
    (model / "pytorch_model.bin").write_bytes(b"never fetched")
    data.mkdir()
    text = NAMED_TEXTS["wikitext-2"]
    with zipfile.ZipFile(data / text.archive, "w") as archive:
        archive.writestr(text.member, "The kiln is hot. " * 20)
    with HubServer({"org/model": model, f"datasets/{text.repository}": data}) as server:
        yield server


def call(home: Path, endpoint: str, *arguments: str | Path, offline: bool = False) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=client_environment(home, endpoint, offline),
        timeout=120,
        check=False,
    )


def test_pull_tells_the_size_first_and_then_the_directory(tmp_path: Path, hub: HubServer) -> None:
    planned = call(tmp_path, hub.endpoint, "pull", "org/model", "--dry-run")
    assert (planned.returncode, planned.stdout) == (0, "")
    assert planned.stderr == "org/model: 2 files, 12.0 MB, 12.0 MB to download\n"
    assert not list(tmp_path.rglob("*.safetensors"))
    done = call(tmp_path, hub.endpoint, "pull", "org/model", "--revision", "main")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "org/model@main: 2 files, 12.0 MB, 12.0 MB to download\n"
    directory = Path(done.stdout.strip())
    assert sorted(path.name for path in directory.iterdir()) == ["config.json", "model.safetensors"]
    again = json.loads(call(tmp_path, hub.endpoint, "pull", "org/model", "--json").stdout)
    assert again == {
        "model": "org/model",
        "path": str(directory),
        "files": 2,
        "bytes": sum(path.stat().st_size for path in directory.iterdir()),
        "missing_bytes": 0,
    }
    offline = call(tmp_path, hub.endpoint, "pull", "org/model", offline=True)
    assert offline.stdout.strip() == str(directory)
    assert "all of it here already" in offline.stderr


def test_an_interrupted_download_is_resumed(tmp_path: Path, hub: HubServer) -> None:
    hub.cut, hub.ranges = WEIGHTS // 2, []
    try:
        broken = call(tmp_path, hub.endpoint, "pull", "org/model")
    finally:
        hub.cut = None
    assert broken.returncode == 2
    assert "the hub refused org/model" in broken.stderr.splitlines()[-1]
    assert {name for name, first in hub.ranges if 0 < first <= WEIGHTS // 2} == {"model.safetensors"}
    hub.requests.clear()
    done = call(tmp_path, hub.endpoint, "pull", "org/model")
    assert done.returncode == 0, done.stderr
    assert sum(path.endswith("model.safetensors") for path in hub.requests) == 1
    got = (Path(done.stdout.strip()) / "model.safetensors").read_bytes()
    assert got == bytes(range(256)) * (WEIGHTS // 256)


def test_a_damaged_part_is_downloaded_again(tmp_path: Path, hub: HubServer) -> None:
    hub.cut = WEIGHTS // 2
    try:
        call(tmp_path, hub.endpoint, "pull", "org/model")
    finally:
        hub.cut = None
    (part,) = tmp_path.rglob("*.edgekiln-part")
    part.write_bytes(bytes(WEIGHTS // 2))
    damaged = call(tmp_path, hub.endpoint, "pull", "org/model")
    assert damaged.returncode == 2
    assert "was damaged on the way: download it again" in damaged.stderr
    assert call(tmp_path, hub.endpoint, "pull", "org/model").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "offline", "message"),
    [
        (["org/none"], False, "nor a public model on the hub"),
        (["org/model@v9"], False, "the hub has no such revision"),
        (["org/model"], True, "it is not in the download cache, and offline mode is set"),
    ],
    ids=["model", "revision", "offline"],
)
def test_what_cannot_be_downloaded(
    tmp_path: Path, hub: HubServer, arguments: list[str], offline: bool, message: str
) -> None:
    done = call(tmp_path, hub.endpoint, "pull", *arguments, offline=offline)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert message in line


def test_a_full_disk_is_told_before_the_download(tmp_path: Path, hub: HubServer) -> None:
    script = "import shutil, types\nshutil.disk_usage = lambda _: types.SimpleNamespace(free=1000)\n" + COMMAND
    done = subprocess.run(
        [sys.executable, "-c", script, "pull", "org/model"],
        capture_output=True,
        text=True,
        env=client_environment(tmp_path, hub.endpoint),
        check=False,
    )
    assert done.returncode == 2
    assert "org/model is 12.0 MB to download, and the disk of " in done.stderr
    assert "has 1.00 kB left: free some or set HF_HOME" in done.stderr


def test_arguments_that_are_no_hub_id(tmp_path: Path) -> None:
    assert "is not a hub id: give owner/name" in error_line(edgekiln("pull", "no model"))
    assert "is here already" in error_line(edgekiln("pull", tmp_path))
    assert "give one of them" in error_line(edgekiln("pull", "org/model@a", "--revision", "b"))
    result = edgekiln("pull", "smollm2-135m")
    assert result.exit_code == 0, result.output
    assert result.stdout.strip().endswith(".gguf")


def test_a_text_by_its_name(tmp_path: Path, hub: HubServer, tiny_engine: Path) -> None:
    evaluate = ("eval", tiny_engine, "--text", "wikitext-2", "--json")
    refused = call(tmp_path, hub.endpoint, *evaluate, offline=True)
    assert refused.returncode == 2
    (line,) = refused.stderr.splitlines()
    assert "of the data set ggml-org/ci is not in the download cache, and offline mode is set: give a file" in line
    for offline in (False, True):
        done = call(tmp_path, hub.endpoint, *evaluate, offline=offline)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["tokens"] > 20
