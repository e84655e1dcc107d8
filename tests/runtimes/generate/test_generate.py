"""The loop against greedy decoding without cache or batch, and against a runtime whose answers are written down."""

import numpy as np
import pytest

from edgekiln import runtimes
from edgekiln.engine.manifest import SpecialTokens, read_manifest
from edgekiln.errors import RequestError
from edgekiln.runtimes.generate.generate import GenerateOptions, generate
from edgekiln.runtimes.sampling.sampler import SamplingOptions
from edgekiln.runtimes.text.tokenizer import Tokenizer

VOCAB, EOS, MAX_LENGTH = 259, 258, 600


@pytest.fixture(scope="module")
def runtime(engine):
    return runtimes.open(engine, threads=1)


@pytest.fixture(scope="module")
def tokenizer(engine):
    return Tokenizer.from_engine(engine, read_manifest(engine))


class Written:
    """A runtime that answers row b with `answers[b]`, whatever the prompt, and counts what it is asked."""

    max_verify_tokens = 1

    def __init__(self, answers: list[list[int]], max_length: int = MAX_LENGTH) -> None:
        self.properties = runtimes.Properties("written", VOCAB, max_length, 0, (), ())
        self.answers = answers
        self.prefilled: list[int] = []
        self.longest_step: list[int] = []

    def new_cache(self, batch_size: int = 1):
        return WrittenCache(batch_size)

    def prefill(self, cache, row, tokens):
        assert cache.lengths[row] + tokens.size <= self.properties.max_length
        self.prefilled.append(tokens.size)
        cache.rows[row] += tokens.tolist()
        cache.begun[row] = len(cache.rows[row])
        return self._logits(cache, row)

    def step(self, cache, tokens):
        assert cache.lengths.max() < self.properties.max_length
        self.longest_step.append(int(cache.lengths.max()))
        for row, token in enumerate(tokens.tolist()):
            cache.rows[row].append(token)
        return np.stack([self._logits(cache, row) for row in range(cache.batch_size)])

    def _logits(self, cache, row):
        answer = self.answers[row]
        logits = np.zeros(VOCAB, dtype=np.float32)
        logits[answer[max(0, len(cache.rows[row]) - cache.begun[row]) % len(answer)]] = 9
        return logits


class WrittenCache:
    capacity = MAX_LENGTH

    def __init__(self, batch_size):
        self.batch_size = batch_size
        self.rows = [[] for _ in range(batch_size)]
        self.begun = [0] * batch_size

    @property
    def lengths(self):
        return np.array([len(row) for row in self.rows])

    def tokens(self, row):
        return np.array(self.rows[row], dtype=np.int64)

    def rewind(self, row, length):
        assert length <= len(self.rows[row])
        del self.rows[row][length:]


def answers(tokens) -> dict[int, str]:
    texts: dict[int, str] = {}
    for token in tokens:
        texts[token.index] = texts.get(token.index, "") + token.text
    return texts


def greedy(decoder, prompt: np.ndarray, count: int) -> list[int]:
    ids = prompt.tolist()
    for _ in range(count):
        ids.append(int(decoder.forward(np.array(ids))[-1].argmax()))
    return ids[len(prompt) :]


def prompts(*lengths: int) -> list[np.ndarray]:
    return [np.random.default_rng(length).integers(0, 256, length) for length in lengths]


def test_a_batch_is_each_prompt_alone(runtime, tokenizer, decoder):
    batch = prompts(5, 17, 2)
    options = GenerateOptions(max_tokens=12, ignore_eos=True)
    tokens = list(generate(runtime, tokenizer, batch, options))
    for row, prompt in enumerate(batch):
        assert [token.id for token in tokens if token.index == row] == greedy(decoder, prompt, 12)
    assert [token.index for token in tokens[:6]] == [0, 1, 2] * 2
    assert [token.finish_reason for token in tokens[-3:]] == ["length"] * 3


def test_rows_that_end_early_leave_the_others_alone(runtime, tokenizer, decoder):
    batch = prompts(5, 17, 2)
    full = [greedy(decoder, prompt, 12) for prompt in batch]
    ending = full[1][2]
    expected = [row[: row.index(ending) + 1] if ending in row else row for row in full]
    assert sorted(map(len, expected)) != [12, 12, 12]
    other = Tokenizer(tokenizer._tokenizer, SpecialTokens(eos=[ending]))
    tokens = list(generate(runtime, other, batch, GenerateOptions(max_tokens=12)))
    for row in range(3):
        assert [token.id for token in tokens if token.index == row] == expected[row]


def test_log_probabilities_are_the_models(runtime, tokenizer, decoder):
    prompt = prompts(9)[0]
    options = GenerateOptions(
        max_tokens=6, logprobs=True, ignore_eos=True, sampling=SamplingOptions(temperature=2.0, top_k=40, seed=1)
    )
    ids = prompt.tolist()
    for token in generate(runtime, tokenizer, [prompt], options):
        logits = decoder.forward(np.array(ids))[-1]
        expected = logits[token.id] - logits.max() - np.log(np.exp(logits - logits.max()).sum())
        assert token.logprob == pytest.approx(expected, abs=1e-3)
        ids.append(token.id)
    assert all(token.logprob is None for token in generate(runtime, tokenizer, [prompt]))


def test_a_seed_repeats_a_batch(runtime, tokenizer):
    options = GenerateOptions(max_tokens=10, ignore_eos=True, sampling=SamplingOptions(temperature=5.0, seed=3))
    first = list(generate(runtime, tokenizer, prompts(4, 4), options))
    assert list(generate(runtime, tokenizer, prompts(4, 4), options)) == first
    assert [t.id for t in first if t.index == 0] != [t.id for t in first if t.index == 1]


def test_text_comes_in_whole_characters(tokenizer):
    text = "naïve 中文 👍"
    ids = tokenizer.encode(text).tolist()
    tokens = list(generate(Written([[*ids, EOS]]), tokenizer, ["x"]))
    assert "".join(token.text for token in tokens) == text
    assert not any("\ufffd" in token.text for token in tokens)
    assert [token.id for token in tokens] == [*ids, EOS]
    assert (tokens[-1].text, tokens[-1].finish_reason) == ("", "eos")
    assert {token.finish_reason for token in tokens[:-1]} == {None}


@pytest.mark.parametrize(
    ("says", "options", "ending"),
    [
        ("one STOP two", {"stop": ("STOP",)}, ("one ", "stop", 8)),
        ("one STO", {"stop": ("STOP",)}, ("one STO", "eos", 8)),
        ("one STOP", {"stop": ("STOP",), "max_tokens": 6}, ("one ST", "length", 6)),
        ("中中", {"max_tokens": 5}, ("中\ufffd", "length", 5)),
        ("中", {"max_tokens": 2, "stop": ("\ufffd",)}, ("", "stop", 2)),
        ("abcdef", {"max_tokens": 1}, ("a", "length", 1)),
        ("ab", {"max_tokens": 6, "ignore_eos": True}, ("abab", "length", 6)),
        ("", {}, ("", "eos", 1)),
    ],
)
def test_how_an_answer_ends(tokenizer, says, options, ending):
    answer, reason, count = ending
    runtime = Written([[*tokenizer.encode(says).tolist(), EOS]])
    tokens = list(generate(runtime, tokenizer, ["x"], GenerateOptions(**options)))
    assert answers(tokens)[0] == answer
    assert [token.finish_reason for token in tokens] == [None] * (count - 1) + [reason]


def test_the_engines_length_ends_an_answer(tokenizer):
    runtime = Written([[104], [104]], max_length=10)
    batch = [np.arange(7), np.arange(9)]
    tokens = list(generate(runtime, tokenizer, batch, GenerateOptions(max_tokens=50)))
    assert [(token.index, token.finish_reason) for token in tokens] == [
        (0, None),
        (1, "length"),
        (0, None),
        (0, "length"),
    ]


def test_a_finished_row_costs_no_attention_unless_its_history_is_kept(tokenizer):
    batch = [np.arange(100), np.arange(4)]
    runtime = Written([[EOS], [104]])
    list(generate(runtime, tokenizer, batch, GenerateOptions(max_tokens=5)))
    assert runtime.longest_step == [4, 5, 6, 7]

    runtime = Written([[EOS], [104]])
    cache = runtime.new_cache(2)
    list(generate(runtime, tokenizer, batch, GenerateOptions(max_tokens=5), cache))
    assert cache.tokens(0).tolist() == list(range(100))
    assert cache.tokens(1).tolist() == [0, 1, 2, 3, 104, 104, 104, 104]


def test_a_cache_with_history_reads_only_what_is_new(tokenizer):
    runtime = Written([[104, 105, 106, EOS]])
    cache = runtime.new_cache()
    options = GenerateOptions(max_tokens=10)
    list(generate(runtime, tokenizer, [np.arange(20)], options, cache))
    held = cache.tokens(0).tolist()
    assert held == [*range(20), 104, 105, 106]
    list(generate(runtime, tokenizer, [np.array([*held, 1, 2])], options, cache))
    changed = [*held[:10], 200, *held[11:]]
    list(generate(runtime, tokenizer, [np.array(changed)], options, cache))
    list(generate(runtime, tokenizer, [np.array(changed)], options, cache))
    assert runtime.prefilled == [20, 2, 13, 1]
    assert cache.tokens(0).tolist()[: len(changed)] == changed


def test_history_in_a_real_cache_gives_the_same_answers(runtime, tokenizer, decoder):
    cache = runtime.new_cache(2)
    options = GenerateOptions(max_tokens=6, ignore_eos=True)
    first, second = prompts(11, 4)
    list(generate(runtime, tokenizer, [first, second], options, cache))
    longer = [np.append(cache.tokens(0), [5, 6]), np.append(second[:2], [7])]
    tokens = list(generate(runtime, tokenizer, longer, options, cache))
    for row in range(2):
        assert [token.id for token in tokens if token.index == row] == greedy(decoder, longer[row], 6)


def test_a_dropped_answer_leaves_the_cache_as_it_stood(tokenizer):
    runtime = Written([[104, 105, 106, 107]])
    cache = runtime.new_cache()
    stream = generate(runtime, tokenizer, [np.arange(3)], GenerateOptions(), cache)
    for _ in range(3):
        next(stream)
    stream.close()
    assert cache.tokens(0).tolist() == [0, 1, 2, 104, 105]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([""], "prompt is empty: give some text"),
        ([np.zeros(0, dtype=np.int64)], "prompt is empty"),
        ([], r"prompts must be a list of at least one, got \[\]"),
        ("hello", "prompts must be a list of at least one, got 'hello'"),
        (["fine", "h" * 9000], "prompt has 9000 tokens, the engine holds 600: raise --max-length at export"),
        (["h" * 600], "prompt has 600 tokens, which leaves no room for an answer in the 600 the engine holds"),
        ([np.array([4000])], "token id 4000 is outside the vocabulary of 259"),
    ],
)
def test_prompts_that_cannot_be_answered(runtime, tokenizer, given, message):
    with pytest.raises(RequestError, match=message):
        generate(runtime, tokenizer, given)


def test_a_cache_of_another_size(runtime, tokenizer):
    with pytest.raises(RequestError, match="the cache has batch size 2 for 1 prompts: give one of batch size 1"):
        generate(runtime, tokenizer, ["x"], cache=runtime.new_cache(2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": 0}, "max_tokens must be at least 1, got 0"),
        ({"stop": "END"}, "stop must be a tuple of strings that are not empty, got 'END'"),
        ({"stop": ("a", "")}, "stop must be a tuple"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(RequestError, match=message):
        GenerateOptions(**options)
