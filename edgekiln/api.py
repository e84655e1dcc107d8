"""The Python API that runs engines: `Engine`. The command line uses it, too."""

import functools
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Unpack

from edgekiln import arguments, runtimes
from edgekiln.api_arguments import (
    GRAMMAR_KEYWORDS,
    ChatKeywords,
    GenerateKeywords,
    Message,
    Prompt,
    batch_of,
    constraint_of,
    generate_option,
    split_chat_keywords,
    token_ids,
)
from edgekiln.batch import BatchAnswer, generate_batch
from edgekiln.batch_file import BatchCounts, BatchProgress, RequestFile, answer_file
from edgekiln.engine.manifest import EngineManifest, check_unchanged, read_manifest
from edgekiln.runtimes.base import Ids, KernelsChoice, Logits, Runtime, check_vocabulary
from edgekiln.runtimes.generate.answer import Token
from edgekiln.runtimes.generate.generate import generate
from edgekiln.runtimes.generate.options import GenerateOptions
from edgekiln.runtimes.generate.speculative_decoder import SpeculationStats
from edgekiln.runtimes.sampling.constraint import Constraint
from edgekiln.runtimes.sampling.sampler import SamplingOptions
from edgekiln.runtimes.text.tokenizer import Tokenizer
from edgekiln.runtimes.text.tools.prompt import chat_ids
from edgekiln.session import Session


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
        ids = chat_ids(self.tokenizer, messages, max_tokens=self.runtime.properties.max_length, **chat)
        return self.generate(ids, stats, **others)

    def generate_batch(
        self,
        requests: Iterable[Prompt | Mapping[str, Any]],
        parallel: int | None = None,
        **options: Unpack[ChatKeywords],
    ) -> Generator[BatchAnswer, None, None]:
        """Answer many requests, several at a time: one joins as another ends. Answers are those of each one alone.

        Args:
            requests: prompts, as text or token ids, or dictionaries with `prompt` or `messages`, and optionally `id`
                and options of `ChatKeywords` for this one. They are read as they are needed.
            parallel: requests that run together; by default 8, or fewer where a TensorRT engine holds fewer.
            options: see `ChatKeywords`; for each request, unless its own differ. Those of the chat template are for
                requests with messages.

        Returns:
            An iterator of the answers in the order of the requests. One that cannot be answered has the reason as
            `BatchAnswer.error`, and the others go on.

        Raises:
            RequestError: an option is out of range.
            EdgekilnError: while iterating: the engine does not run so many requests together.
        """
        return generate_batch(self, requests, parallel, options)

    def generate_file(
        self,
        source: str | Path,
        out: str | Path,
        parallel: int | None = None,
        progress: BatchProgress | None = None,
        **options: Unpack[ChatKeywords],
    ) -> BatchCounts:
        """Answer the requests of a JSONL file into another, as `edgekiln run --jsonl` does.

        Args:
            source: a file with a JSON object in each line, as `generate_batch` takes.
            out: of a line for each, in the same order. Where the file has answers to the first of them, these are
                kept, and the others are added.
            parallel, options: as for `generate_batch`.
            progress: called with the number of requests that are answered, and that of all, after each answer.

        Raises:
            RequestError: a file cannot be read or written, `out` has other contents, or an option is out of range.
            EdgekilnError: the engine does not run so many requests together.
        """
        source, out = arguments.path("source", source), arguments.path("out", out)
        return answer_file(self, RequestFile.open(source), out, parallel, progress, options)

    def session(self, system: str | None = None, **options: Unpack[ChatKeywords]) -> Session:
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
