"""The measured engines: label, environment, serving module and converter, one row each."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.common.checkpoints import SHAPES

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Variant:
    """One measured engine at one precision: a row of the tables.

    Attributes:
        label: name in tables.
        python: interpreter of the environment that it runs in.
        module: module under `bench.engines` that serves it.
        prepare: converts (model argument, checkpoint directory) to the file or directory at the third argument.
        suffix: appended to the model's name to form that path.
        ours: whether it is edgekiln.
        arguments: of the module, after the model path and the thread count.
        environment: variables of its process, beside those of this one.
    """

    label: str
    python: Path
    module: str
    prepare: Callable[[str, Path, Path], None]
    suffix: str
    ours: bool = False
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


def _run(command: list[str | Path], log: Path) -> None:
    """Run a converter with its output in `log`.

    Raises:
        SystemExit: it failed.
    """
    with log.open("w") as to:
        result = subprocess.run([str(part) for part in command], stdout=to, stderr=subprocess.STDOUT, check=False)
    if result.returncode:
        raise SystemExit(f"{Path(str(command[0])).name} failed with {result.returncode}: see {log}")


def _edgekiln(*options: str) -> Callable[[str, Path, Path], None]:
    def prepare(model: str, checkpoint: Path, path: Path) -> None:
        source = str(checkpoint) if model in SHAPES else model
        _run(
            [sys.executable, "-m", "edgekiln", "engine", source, *options, "-o", path],
            path.with_name(path.name + ".log"),
        )

    return prepare


def _run_atomic(command: Callable[[Path], list[str | Path]], path: Path) -> None:
    """Run `command(temporary directory)` and rename its output to `path`."""
    part = path.with_name(path.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    _run(command(part), path.with_name(path.name + ".log"))
    part.rename(path)


def _genai(_model: str, checkpoint: Path, path: Path) -> None:
    def command(part: Path) -> list[str | Path]:
        builder = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", checkpoint, "-o", part]
        options = ["-p", "int4", "-e", "cpu", "-c", path.with_name("genai-cache")]
        return [*builder, *options, "--extra_options", "block_size=32", "accuracy_level=4"]

    _run_atomic(command, path)


def _openvino(python: Path, *options: str) -> Callable[[str, Path, Path], None]:
    def prepare(_model: str, checkpoint: Path, path: Path) -> None:
        export = [python.parent / "optimum-cli", "export", "openvino", "-m", checkpoint]
        task = ["--task", "text-generation-with-past", "--weight-format"]
        _run_atomic(lambda part: [*export, *task, *options, part], path)

    return prepare


def _llama(python: Path, kind: str) -> Callable[[str, Path, Path], None]:
    def prepare(_model: str, checkpoint: Path, path: Path) -> None:
        prefix = str(path).removesuffix(f"-{kind}.gguf")
        # -P: beside the script, llama_cpp.py has the name of the package that it imports.
        _run([python, "-P", HERE / "llama_convert.py", checkpoint, prefix, kind], path.with_name(path.name + ".log"))

    return prepare


# Options of the build, and the suffix of the engine's path.
_PRESETS = {
    "int8": (("--quant", "int8"), "-int8"),
    "int8, int8 KV": (("--quant", "int8", "--kv", "int8"), "-int8-kv8"),
    "int4": (("--quant", "int4"), "-int4"),
    "int4, int8 KV": (("--quant", "int4", "--kv", "int8"), "-int4-kv8"),
}


def edgekiln_variants(names: Sequence[str] = ("int8", "int4", "int4, int8 KV")) -> list[Variant]:
    """Variants of edgekiln by preset and KV cache type, "int8, int8 KV" as well."""
    here = Path(os.path.abspath(sys.executable))
    rows = {name: _PRESETS[name] for name in names}
    return [
        Variant(f"edgekiln {name}", here, "edgekiln", _edgekiln(*options), suffix, ours=True)
        for name, (options, suffix) in rows.items()
    ]


def llama_variants(llama: Path, kinds: Sequence[str] = ("Q4_0", "Q4_1", "Q8_0")) -> list[Variant]:
    """Variants of llama.cpp in the given formats, run by the interpreter `llama`."""
    return [
        Variant(f"llama.cpp {kind}", llama, "llama_cpp", _llama(llama, kind), f"-llama-{kind}.gguf") for kind in kinds
    ]


def openvino_variants(openvino: Path) -> list[Variant]:
    """Variants of OpenVINO GenAI, run by the interpreter `openvino`."""
    found = []
    for name, options in {"int4": ("int4", "--sym", "--group-size", "64", "--ratio", "1.0"), "int8": ("int8",)}.items():
        prepare = _openvino(openvino, *options)
        found.append(Variant(f"openvino-genai {name}", openvino, "openvino", prepare, f"-openvino-{name}"))
    return found


def variants(openvino: Path, llama: Path) -> list[Variant]:
    """All variants; `openvino` and `llama` are the interpreters of their environments."""
    here = Path(os.path.abspath(sys.executable))
    found = edgekiln_variants()
    found.append(Variant("onnxruntime-genai int4", here, "onnxruntime_genai", _genai, "-genai-int4"))
    return found + openvino_variants(openvino) + llama_variants(llama)
