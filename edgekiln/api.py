"""The Python API: `build` makes an engine, `Engine` runs it. The command line uses the same two."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from edgekiln import arguments, runtimes
from edgekiln.api_arguments import (
    GRAMMAR_KEYWORDS,
    BuildKeywords,
    ChatKeywords,
    GenerateKeywords,
    Message,
    Prompt,
    batch_of,
    check_names,
    constraint_of,
    generate_option,
    split_chat_keywords,
    token_ids,
)
from edgekiln.engine.directory import check_output
from edgekiln.engine.manifest import EngineManifest, check_unchanged, read_manifest
from edgekiln.engine.output_file import check_output_file
from edgekiln.errors import RequestError
from edgekiln.extras import requires_extra
from edgekiln.progress import Progress
from edgekiln.runtimes.base import Ids, KernelsChoice, Logits, Runtime, check_vocabulary
from edgekiln.runtimes.generate.answer import Token
from edgekiln.runtimes.generate.generate import generate
from edgekiln.runtimes.generate.options import GenerateOptions
from edgekiln.runtimes.generate.speculative_decoder import SpeculationStats
from edgekiln.runtimes.sampling.constraint import Constraint
from edgekiln.runtimes.sampling.sampler import SamplingOptions
from edgekiln.runtimes.text.tokenizer import Tokenizer
from edgekiln.targets import DEFAULT_TARGET

if TYPE_CHECKING:
    from edgekiln.sources.base import ModelSource


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
        pack_cache: bool = True,
    ) -> None:
        """Read the manifest; the runtime is loaded on first use. See `open`."""
        self.path = arguments.path("path", arguments.engine_path(path))
        self.manifest: EngineManifest = read_manifest(self.path, verify=False)
        self._open_runtime = functools.partial(
            runtimes.open,
            self.path,
            threads=threads,
            chunk=chunk,
            kernels=kernels,
            verify=verify,
            pack_cache=pack_cache,
        )

    @classmethod
    def open(
        cls,
        path: str | Path,
        threads: int | None = None,
        kernels: KernelsChoice = "edgekiln",
        chunk: int | None = None,
        verify: bool = True,
        pack_cache: bool = True,
    ) -> "Engine":
        """Load an engine directory.

        Args:
            path: the engine directory.
            threads: compute threads, at most the processors that this process may use; by default its performance
                cores, within affinity and CPU quota.
            kernels: "edgekiln" uses edgekiln's CPU kernels where they are built, "onnxruntime" only ONNX Runtime's.
            chunk: prompt tokens per run, at most; by default the runtime's own choice.
            verify: check the SHA-256 of every file; with a pack cache, that of large files once until they are written.
            pack_cache: keep packed weights in the engine's directory `packed-weights`, from 256 MiB of weights on, so
                that later starts map them. It may be deleted at any time.

        Raises:
            EngineError: the directory is missing, damaged, or of a target that this edgekiln does not know.
            EdgekilnError: the library that runs the target is not installed, or an argument is out of range.
        """
        engine = cls(path, threads, kernels, chunk, verify, pack_cache)
        _ = engine.runtime, engine.tokenizer
        return engine

    @functools.cached_property
    def runtime(self) -> Runtime:
        """The loaded runtime: prefill, decode steps and KV caches, for callers that need more than text."""
        runtime = self._open_runtime()
        check_unchanged(self.path, self.manifest)
        return runtime

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, with chat templates and streaming decoding."""
        tokenizer = Tokenizer.from_engine(self.path, self.manifest)
        check_unchanged(self.path, self.manifest)
        return tokenizer

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
        return generate(self.runtime, self.tokenizer, batch_of(prompt), self._options(options), None, stats)

    def chat(
        self,
        messages: Sequence[Message],
        stats: SpeculationStats | None = None,
        **options: Unpack[ChatKeywords],
    ) -> Iterator[Token]:
        """Answer a conversation through the model's chat template.

        Args:
            messages: each with `role` and `content`, as in transformers.
            stats: counts drafted and accepted tokens of speculative decoding.
            options: see `ChatKeywords`.

        Raises:
            RequestError: the engine has no chat template or the template refuses the messages, or as in `generate`.
            EdgekilnError: while iterating, if the runtime fails.
        """
        chat, others = split_chat_keywords(options)
        ids = self.tokenizer.encode_chat(messages, max_tokens=self.runtime.properties.max_length, **chat)
        return self.generate(ids, stats, **others)

    def session(self, system: str | None = None, **options: Unpack[ChatKeywords]) -> "Session":
        """A conversation that keeps its messages and its KV cache between turns.

        Args:
            system: system message.
            options: see `ChatKeywords`; for each turn, unless its own differ.

        Raises:
            RequestError: an option is out of range.
        """
        return Session(self, system, **options)

    def tokenize(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of `text`, with the special tokens that the tokenizer adds (BOS, for most models)."""
        return self.tokenizer.encode(text, add_special_tokens).tolist()

    def detokenize(self, ids: Sequence[int] | Ids) -> str:
        """Text of token ids, without special tokens; bytes that are not UTF-8 become U+FFFD.

        Raises:
            RequestError: an id outside the vocabulary.
        """
        array = token_ids(ids)
        check_vocabulary(array, self.manifest.architecture.vocab_size)
        return self.tokenizer.decode(array)

    def score(self, ids: Sequence[int] | Ids) -> Logits:
        """float32 [S, V] logits of every position of a sequence of S token ids.

        Raises:
            RequestError: an empty or too long sequence, or an id outside the vocabulary.
            EdgekilnError: the runtime failed, or the engine has no scoring graph.
        """
        return self.runtime.score(token_ids(ids))

    def check_options(self, **options: Unpack[ChatKeywords]) -> None:
        """Check the keyword arguments of `generate` and `chat` before there is a prompt.

        Raises:
            RequestError: an option is out of range.
        """
        self._options(split_chat_keywords(options)[1])

    def _options(self, keywords: GenerateKeywords) -> GenerateOptions:
        """The model's sampling defaults, overridden by keywords."""
        values = {name: generate_option(name, value) for name, value in keywords.items()}
        sampling = {field.name: values.pop(field.name, None) for field in fields(SamplingOptions)}
        grammars = {name: values.pop(name, None) for name in GRAMMAR_KEYWORDS}
        chosen = SamplingOptions.from_defaults(self.manifest.sampling, **sampling)
        return GenerateOptions(sampling=chosen, constraint=self._constraint(grammars), **values)

    def _constraint(self, grammars: Mapping[str, Any]) -> Constraint | None:
        if all(grammar is None for grammar in grammars.values()):
            return None  # without loading the tokenizer
        return constraint_of(self.tokenizer, grammars)

    def __repr__(self) -> str:
        return f"Engine({str(self.path)!r}, target={self.manifest.target!r})"


class Session:
    """A conversation with an engine over one KV cache: only the new tokens of each prompt are computed.

    Use it from one thread at a time.
    """

    def __init__(self, engine: Engine, system: str | None = None, **options: Unpack[ChatKeywords]) -> None:
        """Begin a conversation; see `Engine.session`."""
        from edgekiln.runtimes.generate.conversation import Conversation

        engine.check_options(**options)
        self._engine = engine
        self._defaults = options
        self._conversation = Conversation(engine.runtime, engine.tokenizer, system)

    @property
    def messages(self) -> list[dict[str, str]]:
        """The messages so far; they may be edited or deleted between turns."""
        return self._conversation.messages

    def ask(self, text: str, stats: SpeculationStats | None = None, **options: Unpack[ChatKeywords]) -> Iterator[Token]:
        """Send a user message and stream the answer.

        Message and answer are appended to `messages` when the answer ends or the iterator is closed.

        Args:
            text: the message.
            stats: counts drafted and accepted tokens of speculative decoding.
            options: see `ChatKeywords`; by default those of the session.

        Raises:
            RequestError: the engine has no chat template, the conversation is too long for the engine, or an earlier
                answer has begun and not ended.
            EdgekilnError: while iterating, if the runtime fails.
        """
        chat, others = split_chat_keywords({**self._defaults, **options})
        return self._conversation.ask(text, self._engine._options(others), stats, chat)

    def save(self, path: str | Path) -> None:
        """Write the conversation to a file: its messages, and what the KV cache holds of them.

        Args:
            path: of the file; one that exists is replaced.

        Raises:
            RequestError: the file cannot be written, or an answer has begun and not ended.
        """
        self._conversation.save(check_output_file(arguments.path("path", path), [self._engine.path]))

    def restore(self, path: str | Path) -> None:
        """Go on with a conversation that `save` wrote, in place of this one.

        Args:
            path: of the file.

        Raises:
            RequestError: the file cannot be read, is damaged, or is of another engine, or of other kernels, as on
                another kind of processor; or an answer has begun and not ended.
        """
        self._conversation.restore(arguments.path("path", path))


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
        out: directory to make; an engine of the same model there is replaced, one of another model with `force`.
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
    from edgekiln.sources.base import ModelSource

    out = arguments.path("out", out)
    arguments.flag("trust_remote_code", trust_remote_code)
    if progress is not None and not callable(progress):
        raise RequestError(f"progress must be a function, got {progress!r:.60}")
    if not isinstance(model, ModelSource):
        model = str(arguments.path("model", model)) if not isinstance(model, str) else model
    check_names(options, BuildKeywords.__annotations__)
    chosen = BuildOptions(target=target, quant=quant, **options)
    with requires_extra("export"):
        from edgekiln.pipeline.build import build_engine
        from edgekiln.sources.resolve import resolve
    if isinstance(model, str):
        check_output(out)  # before a model is downloaded
        model = resolve(model, trust_remote_code=trust_remote_code, progress=progress)
    build_engine(model, out, chosen, progress)
    return Engine(out)
