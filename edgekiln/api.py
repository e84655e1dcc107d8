"""The Python API: `build` makes an engine, `Engine` runs it. The command line uses the same two."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import numpy as np

from edgekiln import runtimes
from edgekiln.engine.manifest import EngineManifest, read_manifest
from edgekiln.extras import requires_extra
from edgekiln.progress import Progress
from edgekiln.runtimes.base import Ids, KernelsChoice, Logits, Runtime
from edgekiln.runtimes.generate.generate import GenerateOptions, Token, generate
from edgekiln.runtimes.generate.speculative_decoder import SpeculationStats
from edgekiln.runtimes.sampling.sampler import SamplingOptions
from edgekiln.runtimes.text.tokenizer import Tokenizer
from edgekiln.targets import DEFAULT_TARGET

if TYPE_CHECKING:
    from edgekiln.calib.data.options import DataOptions
    from edgekiln.calib.evaluation.options import QualityText
    from edgekiln.calib.limits import Limits
    from edgekiln.calib.recipe import Recipe
    from edgekiln.calib.tensorrt.options import TensorRTOptions
    from edgekiln.pipeline.options import CacheType
    from edgekiln.sources.base import ModelSource

# One prompt: text or token ids; or a batch of prompts.
Prompt = str | Sequence[int] | Ids
Message = Mapping[str, Any]


class GenerateKeywords(TypedDict, total=False):
    """Keyword arguments of `Engine.generate`, `Engine.chat` and `Session.ask`.

    Sampling options that are left out or None take the model's own defaults (its generation_config.json), and where it
    has none the most likely token is taken.

    Attributes:
        max_tokens: tokens of an answer, at most; 256 by default.
        temperature: 0 takes the most likely token; otherwise logits are divided by it.
        top_k: sample from the k most likely tokens; 0 from all.
        top_p: sample from the most likely tokens whose probabilities sum up to this.
        min_p: sample from tokens at least this many times as likely as the most likely one.
        repetition_penalty: above 1, tokens of the prompt and the answer become less likely.
        seed: the same seed gives the same answer; None draws a fresh one.
        stop: one or more strings; the answer ends before the first of them.
        ignore_eos: continue after the end-of-sequence token.
        logprobs: compute the log-probability of each token.
        speculate: use prompt-lookup speculative decoding where it is faster; the answer is the same.
    """

    max_tokens: int
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    seed: int | None
    stop: str | Sequence[str]
    ignore_eos: bool
    logprobs: bool
    speculate: bool


class BuildKeywords(TypedDict, total=False):
    """Keyword arguments of `build`; `edgekiln.pipeline.options.BuildOptions` documents them."""

    group_size: int | None
    recipe: "Recipe | None"
    data: "DataOptions"
    limits: "Limits"
    kv: "CacheType"
    max_length: int | None
    tensorrt: "TensorRTOptions"
    quality_text: "QualityText | None"


class Engine:
    """An engine directory, ready to generate text.

    Its methods may be called from different threads; a `Session` belongs to one thread at a time.

    Attributes:
        path: the engine directory.
        manifest: the contents of engine.json.
    """

    def __init__(
        self,
        path: str | Path,
        threads: int | None = None,
        kernels: KernelsChoice = "edgekiln",
        chunk: int | None = None,
        verify: bool = True,
    ) -> None:
        """Read the manifest; the runtime is loaded on first use. See `open`."""
        self.path = Path(path)
        self.manifest: EngineManifest = read_manifest(self.path, verify=False)
        self._open_runtime = functools.partial(
            runtimes.open, self.path, threads=threads, chunk=chunk, kernels=kernels, verify=verify
        )

    @classmethod
    def open(
        cls,
        path: str | Path,
        threads: int | None = None,
        kernels: KernelsChoice = "edgekiln",
        chunk: int | None = None,
        verify: bool = True,
    ) -> "Engine":
        """Load an engine directory.

        Args:
            path: the engine directory.
            threads: compute threads; by default one per physical core that this process may use.
            kernels: "edgekiln" uses edgekiln's CPU kernels where they are built, "onnxruntime" only ONNX Runtime's.
            chunk: prompt tokens per run, at most; by default the runtime's own choice.
            verify: check the SHA-256 of every file.

        Raises:
            EngineError: the directory is missing, damaged, or of a target that this edgekiln does not know.
            EdgekilnError: the library that runs the target is not installed, or an argument is out of range.
        """
        engine = cls(path, threads, kernels, chunk, verify)
        _ = engine.runtime
        return engine

    @functools.cached_property
    def runtime(self) -> Runtime:
        """The loaded runtime: prefill, decode steps and KV caches, for callers that need more than text."""
        return self._open_runtime()

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, with chat templates and streaming decoding."""
        return Tokenizer.from_engine(self.path, self.manifest)

    def generate(
        self,
        prompt: Prompt | Sequence[Prompt],
        stats: SpeculationStats | None = None,
        **options: Unpack[GenerateKeywords],
    ) -> Iterator[Token]:
        """Continue a prompt, or a batch of prompts.

        Args:
            prompt: text or token ids, or a list of either.
            stats: counts drafted and accepted tokens of speculative decoding.
            options: see `GenerateKeywords`.

        Returns:
            An iterator of tokens with their text, as they are generated. In a batch the tokens of all prompts are
            interleaved, and `Token.index` is the position of the prompt in the list.

        Raises:
            RequestError: an empty or too long prompt, or an option out of range.
            EdgekilnError: while iterating, if the runtime fails.
        """
        return generate(self.runtime, self.tokenizer, _prompts(prompt), self._options(options), None, stats)

    def chat(
        self,
        messages: Sequence[Message],
        stats: SpeculationStats | None = None,
        **options: Unpack[GenerateKeywords],
    ) -> Iterator[Token]:
        """Answer a conversation through the model's chat template.

        Args:
            messages: each with `role` and `content`, as in transformers.
            stats: counts drafted and accepted tokens of speculative decoding.
            options: see `GenerateKeywords`.

        Raises:
            RequestError: the engine has no chat template or the template refuses the messages, or as in `generate`.
            EdgekilnError: while iterating, if the runtime fails.
        """
        return self.generate(self.tokenizer.encode_chat(messages), stats, **options)

    def session(self, system: str | None = None) -> "Session":
        """A conversation that keeps its messages and its KV cache between turns.

        Args:
            system: system message.
        """
        return Session(self, system)

    def tokenize(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of `text`, with the special tokens that the tokenizer adds (BOS, for most models)."""
        return self.tokenizer.encode(text, add_special_tokens).tolist()

    def detokenize(self, ids: Sequence[int] | Ids) -> str:
        """Text of token ids, without special tokens; bytes that are not UTF-8 become U+FFFD."""
        return self.tokenizer.decode(ids)

    def score(self, ids: Sequence[int] | Ids) -> Logits:
        """float32 [S, V] logits of every position of a sequence of S token ids.

        Raises:
            RequestError: an empty or too long sequence, or an id outside the vocabulary.
            EdgekilnError: the runtime failed, or the engine has no scoring graph.
        """
        return self.runtime.score(np.asarray(ids, dtype=np.int64))

    def check_options(self, **options: Unpack[GenerateKeywords]) -> None:
        """Check the keyword arguments of `generate` before there is a prompt.

        Raises:
            RequestError: an option is out of range.
        """
        self._options(options)

    def _options(self, keywords: GenerateKeywords) -> GenerateOptions:
        """The model's sampling defaults, overridden by keywords."""
        values: dict[str, Any] = dict(keywords)
        sampling = {field.name: values.pop(field.name, None) for field in fields(SamplingOptions)}
        stop = values.pop("stop", ())
        chosen = SamplingOptions.from_defaults(self.manifest.sampling, **sampling)
        return GenerateOptions(sampling=chosen, stop=(stop,) if isinstance(stop, str) else tuple(stop), **values)

    def __repr__(self) -> str:
        return f"Engine({str(self.path)!r}, target={self.manifest.target!r})"


class Session:
    """A conversation with an engine over one KV cache: only the new tokens of each prompt are computed.

    Use it from one thread at a time.
    """

    def __init__(self, engine: Engine, system: str | None = None) -> None:
        from edgekiln.runtimes.generate.conversation import Conversation

        self._engine = engine
        self._conversation = Conversation(engine.runtime, engine.tokenizer, system)

    @property
    def messages(self) -> list[dict[str, str]]:
        """The messages so far; they may be edited or deleted between turns."""
        return self._conversation.messages

    def ask(
        self, text: str, stats: SpeculationStats | None = None, **options: Unpack[GenerateKeywords]
    ) -> Iterator[Token]:
        """Send a user message and stream the answer.

        Message and answer are appended to `messages` when the answer ends or the iterator is closed.

        Args:
            text: the message.
            stats: counts drafted and accepted tokens of speculative decoding.
            options: see `GenerateKeywords`.

        Raises:
            RequestError: the engine has no chat template, or the conversation is too long for the engine.
            EdgekilnError: while iterating, if the runtime fails.
        """
        return self._conversation.ask(text, self._engine._options(options), stats)


def build(
    model: "str | Path | ModelSource",
    out: str | Path,
    target: str = DEFAULT_TARGET,
    quant: str = "int8",
    *,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
    **options: Unpack[BuildKeywords],
) -> Engine:
    """Build an engine directory from a model. Needs the extra `export`: pip install 'edgekiln[export,cpu]'.

    Args:
        model: Hugging Face directory, hub id `owner/name[@revision]`, GGUF file, built-in name such as "smollm2-135m",
            or a source that `edgekiln.sources.resolve` returned.
        out: directory to make; an engine there is replaced.
        target: runtime to build for, a key of `edgekiln.targets.TARGETS`.
        quant: quantization preset, a key of `edgekiln.calib.presets.PRESETS`.
        trust_remote_code: run model code that the checkpoint contains.
        progress: called with the name of the step and the share of it that is done, in [0, 1].
        options: see `edgekiln.pipeline.options.BuildOptions`.

    Returns:
        The engine; its runtime is loaded on first use, so that engines for other machines can be built.

    Raises:
        RequestError: an option is unknown, out of range, or does not suit the model.
        SourceError: the model is not found, damaged or not trusted.
        UnsupportedModelError: the model has something that edgekiln or the target does not support.
        EngineError: `out` cannot be written.
        EdgekilnError: a library is not installed.
    """
    from edgekiln.pipeline.options import BuildOptions

    chosen = BuildOptions(target=target, quant=quant, **options)
    with requires_extra("export"):
        from edgekiln.pipeline.build import build_engine
        from edgekiln.sources.resolve import resolve
    if isinstance(model, str | Path):
        model = resolve(str(model), trust_remote_code=trust_remote_code, progress=progress)
    build_engine(model, Path(out), chosen, progress)
    return Engine(out)


def _prompts(prompt: Prompt | Sequence[Prompt]) -> list[str | Ids]:
    """A prompt or a batch as a batch of texts and int64 [S] token ids."""
    if isinstance(prompt, str):
        return [prompt]
    if isinstance(prompt, np.ndarray):
        return list(np.atleast_2d(prompt))
    if len(prompt) and all(isinstance(item, int | np.integer) for item in prompt):
        return [np.asarray(prompt, dtype=np.int64)]
    return [item if isinstance(item, str) else np.asarray(item, dtype=np.int64) for item in prompt]
