"""Who is measured, how each one's model is made, and which process runs it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Candidate:
    """One line of the table.

    Attributes:
        label: its name there.
        python: of the environment that it runs in.
        worker: script under `workers/`.
        ours: whether it is edgekiln.
        arguments: of its worker, after the model's path and the threads.
        make: write its model to this path from this Hugging Face directory and reference.
        suffix: of its model's path.
    """

    label: str
    python: Path
    worker: str
    make: Callable[[str, Path, Path], None]
    suffix: str
    ours: bool = False
    arguments: tuple[str, ...] = ()


def _run(command: list[str | Path], log: Path) -> None:
    """Run a converter, with what it says in a file beside its output.

    Raises:
        SystemExit: it failed.
    """
    with log.open("w") as to:
        result = subprocess.run([str(part) for part in command], stdout=to, stderr=subprocess.STDOUT, check=False)
    if result.returncode:
        raise SystemExit(f"{Path(str(command[0])).name} failed with {result.returncode}: see {log}")


def _edgekiln(*options: str) -> Callable[[str, Path, Path], None]:
    def make(reference: str, checkpoint: Path, path: Path) -> None:
        from checkpoints import SHAPES

        source = str(checkpoint) if reference in SHAPES else reference
        _run(
            [sys.executable, "-m", "edgekiln", "engine", source, *options, "-o", path],
            path.with_name(path.name + ".log"),
        )

    return make


def _run_whole(command: Callable[[Path], list[str | Path]], path: Path) -> None:
    """Run the converter that `command` gives for an output directory, so that `path` is there whole or not at all."""
    part = path.with_name(path.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    _run(command(part), path.with_name(path.name + ".log"))
    part.rename(path)


def _genai(reference: str, checkpoint: Path, path: Path) -> None:
    def command(part: Path) -> list[str | Path]:
        builder = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", checkpoint, "-o", part]
        options = ["-p", "int4", "-e", "cpu", "-c", path.with_name("genai-cache")]
        return [*builder, *options, "--extra_options", "block_size=32", "accuracy_level=4"]

    _run_whole(command, path)


def _openvino(python: Path, *options: str) -> Callable[[str, Path, Path], None]:
    def make(reference: str, checkpoint: Path, path: Path) -> None:
        export = [python.parent / "optimum-cli", "export", "openvino", "-m", checkpoint]
        task = ["--task", "text-generation-with-past", "--weight-format"]
        _run_whole(lambda part: [*export, *task, *options, part], path)

    return make


def _llama(python: Path, kind: str) -> Callable[[str, Path, Path], None]:
    def make(reference: str, checkpoint: Path, path: Path) -> None:
        prefix = str(path).removesuffix(f"-{kind}.gguf")
        _run([python, HERE / "llama_convert.py", checkpoint, prefix, kind], path.with_name(path.name + ".log"))

    return make


def engines() -> list[Candidate]:
    """edgekiln's own."""
    here = Path(os.path.abspath(sys.executable))
    return [
        Candidate(f"edgekiln {name}", here, "edgekiln_worker.py", _edgekiln(*options), suffix, ours=True)
        for name, options, suffix in (
            ("int8", ("--quant", "int8"), "-int8"),
            ("int4", ("--quant", "int4"), "-int4"),
            ("int4, int8 cache", ("--quant", "int4", "--kv", "int8"), "-int4-kv8"),
        )
    ]


def candidates(openvino: Path, llama: Path) -> list[Candidate]:
    """Everyone; `openvino` and `llama` are the Pythons of their environments."""
    here = Path(os.path.abspath(sys.executable))
    found = engines()
    found.append(Candidate("onnxruntime-genai int4", here, "genai_worker.py", _genai, "-genai-int4"))
    for name, options in {"int4": ("int4", "--sym", "--group-size", "64", "--ratio", "1.0"), "int8": ("int8",)}.items():
        make = _openvino(openvino, *options)
        found.append(Candidate(f"openvino-genai {name}", openvino, "openvino_worker.py", make, f"-openvino-{name}"))
    for kind in ("Q4_0", "Q4_1", "Q8_0"):
        make = _llama(llama, kind)
        found.append(Candidate(f"llama.cpp {kind}", llama, "llama_worker.py", make, f"-llama-{kind}.gguf"))
    return found
