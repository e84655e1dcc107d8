"""The model `edgekiln` of lm-evaluation-harness: it evaluates an engine.

`python -m edgekiln.integrations.lm_eval` is the harness's own command line with this model added:

    python -m edgekiln.integrations.lm_eval run --model edgekiln --model_args engine=engines/qwen --tasks hellaswag

It needs the extra `lm-eval`.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from edgekiln import runtimes
from edgekiln.engine.manifest import read_manifest
from edgekiln.errors import EdgekilnError, RequestError
from edgekiln.extras import requires_extra
from edgekiln.runtimes.base import Ids, Logits
from edgekiln.runtimes.generate.generate import generate
from edgekiln.runtimes.generate.options import GenerateOptions
from edgekiln.runtimes.sampling.sampler import SamplingOptions
from edgekiln.runtimes.text.tokenizer import Tokenizer


def _exit(error: EdgekilnError) -> NoReturn:
    print(f"Error: {error}", file=sys.stderr)
    sys.exit(2)


try:
    with requires_extra("lm-eval"):
        from lm_eval.api.instance import Instance
        from lm_eval.api.model import TemplateLM
        from lm_eval.api.registry import register_model
        from lm_eval.models.utils import normalize_gen_kwargs
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
        from tqdm import tqdm
except EdgekilnError as error:
    if __name__ == "__main__":
        _exit(error)
    raise

# Scoring keeps the logits of all positions: 2048 positions with a vocabulary of 150,000 take 1.2 GB.
_DEFAULT_MAX_LENGTH = 2048
_AUTO_BATCH = 8

# A request for a likelihood: (context, continuation) as text, tokens of the context, tokens of the continuation.
Scored = tuple[tuple[str, str] | None, list[int], list[int]]


@register_model("edgekiln")
class EngineLM(TemplateLM):
    """An engine as a model of the harness. Sequences are scored in one run each, as in `edgekiln eval`.

    Args:
        engine: the engine directory.
        threads: compute threads; see `edgekiln.runtimes.open`.
        max_length: largest number of tokens of a request; by default the engine's, but at most 2048.
        batch_size: number of answers that are generated together. Scoring ignores it.
        seed: of sampled answers.
        device: ignored; the harness passes it.
        max_batch_size: ignored; the harness passes it.
        enable_thinking: variable of the chat template.
        chat_template_args: further variables of the chat template.

    Attributes:
        runtime: runs the engine.
        engine_tokenizer: its tokenizer. `TemplateLM.tokenizer` stays None, because the harness expects one of
            transformers there.

    Raises:
        EdgekilnError: the engine cannot be opened, or an option is out of range.
    """

    def __init__(
        self,
        engine: str,
        threads: int | None = None,
        max_length: int | None = None,
        batch_size: int | str = 1,
        seed: int = 0,
        device: str | None = None,
        max_batch_size: int | None = None,
        enable_thinking: bool | None = None,
        chat_template_args: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.runtime = runtimes.open(engine, threads=threads)
        self.engine_tokenizer = Tokenizer.from_engine(engine, read_manifest(engine, verify=False))
        self._directory = Path(engine)
        holds = self.runtime.properties.max_length
        self.max_length = min(holds, _DEFAULT_MAX_LENGTH) if max_length is None else int(max_length)
        if not 2 <= self.max_length <= holds:
            raise RequestError(f"max_length must be from 2 to the {holds} tokens the engine holds, got {max_length}")
        self.batch_size = _AUTO_BATCH if str(batch_size).startswith("auto") else int(batch_size)
        self._seed = int(seed)
        self._template_name: str | None = None
        thinking = {} if enable_thinking is None else {"enable_thinking": enable_thinking}
        self._template_variables = {**(chat_template_args or {}), **thinking}

    @property
    def eot_token_id(self) -> int:
        """The end-of-text token, eos of the model's tokenizer, as in the harness's own model."""
        return self._end()

    @property
    def prefix_token_id(self) -> int:
        """The token that replaces an empty context: the tokenizer's bos, or eos if it has no bos."""
        begin = self._named("bos_token")
        return self._end() if begin is None else begin

    def _end(self) -> int:
        end = self._named("eos_token")
        ends = self.engine_tokenizer.special_tokens.eos if end is None else [end]
        if not ends:
            raise RequestError(f"{self._directory} names no token that ends a text, which the harness needs")
        return ends[0]

    def _named(self, name: str) -> int | None:
        """The id of a special token of the model's tokenizer."""
        text = self.engine_tokenizer.special_tokens.template_variables.get(name)
        return self.engine_tokenizer.token_id(text) if isinstance(text, str) else None

    @property
    def tokenizer_name(self) -> str:
        """The key of the harness's request cache."""
        return str(self._directory.resolve()).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids of a text, by default with the tokenizer's special tokens, but without a second bos."""
        ids = self.engine_tokenizer.encode(string, add_special_tokens=add_special_tokens is not False)
        begin = self.engine_tokenizer.special_tokens.bos
        if add_special_tokens is None and begin is not None and list(ids[:2]) == [begin, begin]:
            ids = self.engine_tokenizer.encode(string, add_special_tokens=False)
        return [int(token) for token in ids]

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The prompt of a conversation, as text.

        The harness tokenizes it later as one text, so control tokens in a benchmark's questions count as such.
        """
        return self.engine_tokenizer.apply_chat_template(
            chat_history,
            add_generation_prompt,
            template_variables=self._template_variables,
            chat_template=self._template_name,
        )

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The engine's chat template, which the harness stores with its results; None if it is not used.

        Args:
            chat_template: whether to use a template, or the name of one.
        """
        if chat_template is False or chat_template is None:
            return None
        if not self.engine_tokenizer.has_chat_template:
            raise RequestError(f"{self._directory} has no chat template: leave out --apply_chat_template")
        self._template_name = chat_template if isinstance(chat_template, str) else None
        return self.engine_tokenizer.chat_template(self._template_name)

    def _loglikelihood_tokens(
        self, requests: Sequence[Scored], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        """For each request, the log-likelihood of the continuation and whether greedy decoding gives it."""
        inputs = [self._input(context, continuation) for _, context, continuation in requests]
        results: list[tuple[float, bool]] = [(0.0, True)] * len(requests)
        last: tuple[tuple[int, ...], Logits] | None = None
        # Requests with the same context and continuations of one token share a run.
        order = sorted(range(len(requests)), key=lambda index: inputs[index])
        for index in tqdm(order, disable=disable_tqdm, desc="Scoring"):
            words, _, continuation = requests[index]
            if last is None or last[0] != inputs[index]:
                last = (inputs[index], self.runtime.score(np.array(inputs[index], dtype=np.int64)))
            results[index] = _likelihood(last[1], np.array(continuation, dtype=np.int64))
            if words is not None:
                self.cache_hook.add_partial("loglikelihood", words, results[index])
        return results

    def _input(self, context: list[int], continuation: list[int]) -> tuple[int, ...]:
        """The tokens to run: context and continuation without its last token, truncated on the left to max_length."""
        if not continuation or not context:
            raise RequestError(
                "the harness asked for the likelihood of an empty continuation, or of one without a context"
            )
        if len(continuation) > self.max_length:
            raise RequestError(
                f"a continuation has {len(continuation)} tokens, max_length is {self.max_length}: raise it"
            )
        return tuple((context + continuation)[:-1][-self.max_length :])

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts, in windows of `max_length`; each token is predicted once."""
        results = []
        for request in tqdm(requests, disable=disable_tqdm, desc="Scoring texts"):
            (text,) = request.args
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(text, add_special_tokens=False),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            scored: list[Scored] = [(None, *make_disjoint_window(window)) for window in windows]
            results.append(sum(value for value, _ in self._loglikelihood_tokens(scored, disable_tqdm=True)))
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), results[-1])
        return results

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Generate answers; each ends at the stop strings or the length of its request."""
        results = [""] * len(requests)
        with tqdm(total=len(requests), disable=disable_tqdm, desc="Generating") as progress:
            for indices, options in self._batches(requests):
                prompts = [self._prompt(requests[index].args[0], options) for index in indices]
                for token in generate(self.runtime, self.engine_tokenizer, prompts, options):
                    results[indices[token.index]] += token.text
                for index in indices:
                    # The harness cuts the text without special tokens, too.
                    for end in options.stop:
                        results[index] = results[index].partition(end)[0]
                    self.cache_hook.add_partial("generate_until", requests[index].args, results[index])
                progress.update(len(indices))
        return results

    def _batches(self, requests: list[Instance]) -> list[tuple[list[int], GenerateOptions]]:
        """Indices of requests with the same options, up to `batch_size` together."""
        groups: dict[GenerateOptions, list[int]] = {}
        for index, request in enumerate(requests):
            groups.setdefault(self._options(request.args[1]), []).append(index)
        return [
            (indices[start : start + self.batch_size], options)
            for options, indices in groups.items()
            for start in range(0, len(indices), self.batch_size)
        ]

    def _options(self, arguments: dict[str, Any]) -> GenerateOptions:
        wanted = normalize_gen_kwargs(arguments)
        sampling = SamplingOptions(
            temperature=float(wanted.get("temperature") or 0.0),
            top_k=int(wanted.get("top_k") or 0),
            top_p=float(wanted.get("top_p") or 1.0),
            seed=self._seed,
        )
        room = min(int(wanted["max_gen_toks"]), self.max_length - 1)
        stop = tuple(filter(None, wanted["until"]))
        # As `HFLM` of the harness, which decodes answers without special tokens.
        return GenerateOptions(max_tokens=room, sampling=sampling, stop=stop, special_tokens="hide")

    def _prompt(self, text: str, options: GenerateOptions) -> Ids:
        """The tokens of a prompt, truncated on the left so that the answer fits."""
        ids = self.tok_encode(text) or [self.prefix_token_id]
        return np.array(ids[-(self.max_length - options.max_tokens) :], dtype=np.int64)


def _likelihood(logits: Logits, continuation: Ids) -> tuple[float, bool]:
    """Log-likelihood of a continuation, and whether each of its tokens has the largest logit.

    Args:
        logits: float32 [S, V]; the last C rows predict the continuation.
        continuation: int64 [C].
    """
    rows = logits[-len(continuation) :].astype(np.float64)
    rows -= rows.max(axis=1, keepdims=True)
    chosen = rows[np.arange(len(continuation)), continuation] - np.log(np.exp(rows).sum(axis=1))
    return float(chosen.sum()), bool((rows.argmax(axis=1) == continuation).all())


def main() -> None:
    """Run the harness's command line. An `EdgekilnError` is printed as one sentence; the exit status is then 2."""
    from lm_eval.__main__ import cli_evaluate

    try:
        cli_evaluate()
    except EdgekilnError as error:
        _exit(error)


if __name__ == "__main__":
    main()
