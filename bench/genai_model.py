"""The peer: an onnxruntime-genai model of a checkpoint, built, timed and scored."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from edgekiln.measure import Sample
from edgekiln.runtimes.base import Ids, Logits
from edgekiln.sources import resolve


def write_hf_directory(reference: str, directory: Path) -> None:
    """Write a model as a Hugging Face directory of plain weights, which is what genai's builder reads."""
    from safetensors.torch import save_file
    from tokenizers import Tokenizer

    source = resolve(reference)
    directory.mkdir(parents=True)
    source.config.architectures = source.config.architectures or _architectures(source.config)
    source.config.save_pretrained(directory)
    weights = {name: source.weights.read(name).contiguous() for name in source.weights.keys()}  # noqa: SIM118
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "tokenizer.json").write_text(source.tokenizer_json, encoding="utf-8")
    tokenizer = Tokenizer.from_str(source.tokenizer_json)
    ids = {"bos_token": source.tokens.bos, "eos_token": source.tokens.eos[0] if source.tokens.eos else None}
    settings = {name: tokenizer.id_to_token(token) for name, token in ids.items() if token is not None}
    if source.chat_template:
        settings["chat_template"] = source.chat_template
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **settings}), encoding="utf-8"
    )


def _architectures(config: object) -> list[str]:
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    return [MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].__name__]


def build(hf_directory: Path, directory: Path) -> None:
    """Build int4, block 32, accuracy level 4, for the CPU.

    Raises:
        subprocess.CalledProcessError: genai's builder failed; its output is beside `directory`, in `.log`.
    """
    temporary = directory.with_name(directory.name + ".part")
    shutil.rmtree(temporary, ignore_errors=True)
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(hf_directory), "-o", str(temporary)]
    command += ["-p", "int4", "-e", "cpu", "-c", str(directory.with_name("genai-cache"))]
    command += ["--extra_options", "block_size=32", "accuracy_level=4"]
    with directory.with_name(directory.name + ".log").open("w") as log:
        subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT)
    temporary.rename(directory)


class GenaiModel:
    """A built model, timed through genai's own loop, and scored as the bare graph in ONNX Runtime."""

    def __init__(self, directory: Path, threads: int | None) -> None:
        """Load for `threads` threads; None leaves the builder's own choice."""
        import onnxruntime_genai as genai

        path = directory / "genai_config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        options = config["model"]["decoder"]["session_options"]
        options.pop("intra_op_num_threads", None)
        if threads is not None:
            options["intra_op_num_threads"] = threads
        path.write_text(json.dumps(config, indent=1), encoding="utf-8")
        self._genai = genai
        self._model = genai.Model(str(directory))

    def measure_request(self, prompts: Ids, gen_tokens: int) -> Sample:
        """Time one request of int64[B, P] prompts, greedily, not ended by an end-of-sequence token."""
        batch, prompt_tokens = prompts.shape
        total = prompt_tokens + gen_tokens
        ids = np.ascontiguousarray(prompts, dtype=np.int32)
        start = time.perf_counter()
        parameters = self._genai.GeneratorParams(self._model)
        parameters.set_search_options(do_sample=False, batch_size=batch, min_length=total, max_length=total)
        generator = self._genai.Generator(self._model, parameters)
        generator.append_tokens(ids if batch > 1 else ids[0])
        generator.generate_next_token()
        times = [time.perf_counter()]
        for _ in range(gen_tokens - 1):
            generator.generate_next_token()
            times.append(time.perf_counter())
        return Sample(times[0] - start, tuple(np.diff(times).tolist()))


class GenaiScorer:
    """The built graph in a bare ONNX Runtime session: int64[S] to float32[S, V]."""

    def __init__(self, directory: Path, threads: int) -> None:
        import onnxruntime

        config = json.loads((directory / "genai_config.json").read_text(encoding="utf-8"))["model"]["decoder"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(
            directory / config["filename"], options, providers=["CPUExecutionProvider"]
        )
        empty = np.zeros((1, config["num_key_value_heads"], 0, config["head_size"]), np.float32)
        names = {value.name for value in self._session.get_inputs()}
        self._past = {name: empty for name in names if name.startswith("past_key_values.")}
        self._positions = "position_ids" in names

    def __call__(self, tokens: Ids) -> Logits:
        feeds = {"input_ids": tokens[None], "attention_mask": np.ones((1, len(tokens)), np.int64), **self._past}
        if self._positions:
            feeds["position_ids"] = np.arange(len(tokens))[None]
        logits: Logits = self._session.run(["logits"], feeds)[0][0]
        return logits
