"""The generate loop, compared with greedy decoding without a KV cache, and run on a runtime with scripted answers."""

import numpy as np
import pytest

from edgekiln import runtimes
from edgekiln.engine.manifest import SpecialTokens, read_manifest
from edgekiln.errors import RequestError
from edgekiln.runtimes.generate.generate import generate
from edgekiln.runtimes.generate.options import GenerateOptions
from edgekiln.runtimes.sampling.sampler import SamplingOptions
from edgekiln.runtimes.text.tokenizer import Tokenizer

VOCAB, EOS, MAX_LENGTH = 259, 258, 600


@pytest.fixture(scope="module")
def runtime(engine):
    return runtimes.open(engine, threads=1)


@pytest.fixture(scope="module")
def tokenizer(engine):
    return Tokenizer.from_engine(engine, read_manifest(engine))


class Scripted:
    """A runtime that answers prompt b with the tokens `answers[b]`, and records the lengths of its runs."""

    max_verify_tokens = 1

    def __init__(self, answers: list[list[int]], max_length: int = MAX_LENGTH) -> None:
        self.properties = runtimes.Properties("scripted", VOCAB, max_length, 0, (), ())
        self.answers = answers
        self.prefilled: list[int] = []
        self.longest_step: list[int] = []

    def new_cache(self, batch_size: int = 1):
        return ScriptedCache(batch_size)

    def prefill(self, cache, index, tokens):
        assert cache.lengths[index] + tokens.size <= self.properties.max_length
        self.prefilled.append(tokens.size)
        cache.sequences[index] += tokens.tolist()
        cache.prompt_lengths[index] = len(cache.sequences[index])
        return self._logits(cache, index)

    def step(self, cache, tokens):
        assert cache.lengths.max() < self.properties.max_length
        self.longest_step.append(int(cache.lengths.max()))
        for index, token in enumerate(tokens.tolist()):
            if index not in cache.paused:
                cache.sequences[index].append(token)
        return np.stack([self._logits(cache, index) for index in range(cache.batch_size)])

    def _logits(self, cache, index):
        answer = self.answers[index]
        logits = np.zeros(VOCAB, dtype=np.float32)
        logits[answer[max(0, len(cache.sequences[index]) - cache.prompt_lengths[index]) % len(answer)]] = 9
        return logits


class ScriptedCache:
    capacity = MAX_LENGTH

    def __init__(self, batch_size):
        self.batch_size = batch_size
        self.sequences = [[] for _ in range(batch_size)]
        self.prompt_lengths = [0] * batch_size
        self.paused: set[int] = set()

    @property
    def lengths(self):
        return np.array([len(sequence) for sequence in self.sequences])

    def tokens(self, index):
        return np.array(self.sequences[index], dtype=np.int64)

    def rewind(self, index, length):
        assert length <= len(self.sequences[index])
        del self.sequences[index][length:]
        self.paused.discard(index)
        return length

    def pause(self, index):
        self.paused.add(index)


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


def test_a_batch_gives_the_answer_of_each_prompt_alone(runtime, tokenizer, decoder):
    batch = prompts(5, 17, 2)
    options = GenerateOptions(max_tokens=12, ignore_eos=True)
    tokens = list(generate(runtime, tokenizer, batch, options))
    for index, prompt in enumerate(batch):
        assert [token.id for token in tokens if token.index == index] == greedy(decoder, prompt, 12)
    assert [token.index for token in tokens[:6]] == [0, 1, 2] * 2
    assert [token.finish_reason for token in tokens[-3:]] == ["length"] * 3


def test_answers_that_end_early_do_not_affect_the_others(runtime, tokenizer, decoder):
    batch = prompts(5, 17, 2)
    full = [greedy(decoder, prompt, 12) for prompt in batch]
    ending = full[1][2]
    expected = [ids[: ids.index(ending) + 1] if ending in ids else ids for ids in full]
    assert sorted(map(len, expected)) != [12, 12, 12]
    other = Tokenizer(tokenizer._tokenizer, SpecialTokens(eos=[ending]))
    tokens = list(generate(runtime, other, batch, GenerateOptions(max_tokens=12)))
    for index in range(3):
        assert [token.id for token in tokens if token.index == index] == expected[index]


def test_log_probabilities_are_those_of_the_model(runtime, tokenizer, decoder):
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


def test_a_seed_reproduces_a_batch(runtime, tokenizer):
    options = GenerateOptions(max_tokens=10, ignore_eos=True, sampling=SamplingOptions(temperature=5.0, seed=3))
    first = list(generate(runtime, tokenizer, prompts(4, 4), options))
    assert list(generate(runtime, tokenizer, prompts(4, 4), options)) == first
    assert [t.id for t in first if t.index == 0] != [t.id for t in first if t.index == 1]


def test_texts_contain_whole_characters(tokenizer):
    text = "naïve 中文 👍"
    ids = tokenizer.encode(text).tolist()
    tokens = list(generate(Scripted([[*ids, EOS]]), tokenizer, ["x"]))
    assert "".join(token.text for token in tokens) == text
    assert not any("\ufffd" in token.text for token in tokens)
    assert [token.id for token in tokens] == [*ids, EOS]
    assert (tokens[-1].text, tokens[-1].finish_reason) == ("", "eos")
    assert {token.finish_reason for token in tokens[:-1]} == {None}


@pytest.mark.parametrize(
    ("script", "options", "ending"),
    [
        ("one STOP two", {"stop": ("STOP",)}, ("one ", "stop", 8)),
        ("one STO", {"stop": ("STOP",)}, ("one STO", "eos", 8)),
        ("one STOP", {"stop": ("STOP",), "max_tokens": 6}, ("one ST", "length", 6)),
        ("中中", {"max_tokens": 5}, ("中\ufffd", "length", 5)),
        ("中", {"max_tokens": 2, "stop": ("\ufffd",)}, ("", "stop", 2)),
        ("a\ufffd", {"stop": ("\ufffd",)}, ("a", "stop", 4)),
        ("abcdef", {"max_tokens": 1}, ("a", "length", 1)),
        ("ab", {"max_tokens": 6, "ignore_eos": True}, ("abab", "length", 6)),
        ("", {}, ("", "eos", 1)),
    ],
)
def test_how_an_answer_ends(tokenizer, script, options, ending):
    answer, reason, count = ending
    runtime = Scripted([[*tokenizer.encode(script).tolist(), EOS]])
    tokens = list(generate(runtime, tokenizer, ["x"], GenerateOptions(**options)))
    assert answers(tokens)[0] == answer
    assert [token.finish_reason for token in tokens] == [None] * (count - 1) + [reason]


@pytest.mark.parametrize(
    ("options", "ending"),
    [
        ({}, ("h<|im_start|>i", "eos", 4)),
        ({"special_tokens": "hide"}, ("hi", "eos", 4)),
        ({"special_tokens": "show"}, ("h<|im_start|>i<|im_end|>", "eos", 4)),
        ({"stop": ("<|im_start|>i",)}, ("h", "stop", 3)),
        ({"stop": ("start|>i",)}, ("h<|im_", "stop", 3)),
        ({"special_tokens": "hide", "stop": ("<|im_start|>i",)}, ("h", "stop", 3)),
        ({"special_tokens": "hide", "stop": ("start|>i",)}, ("h", "stop", 3)),
        ({"special_tokens": "hide", "stop": ("hi",)}, ("hi", "eos", 4)),
        # Of eos, also where a stop string ends in it.
        ({"stop": ("<|im_end|>",)}, ("h<|im_start|>i", "eos", 4)),
        ({"stop": ("i<|im_end|>",)}, ("h<|im_start|>", "eos", 4)),
        ({"special_tokens": "show", "stop": ("i<|im_end|>",)}, ("h<|im_start|>", "eos", 4)),
        ({"special_tokens": "show", "stop": ("end|>",)}, ("h<|im_start|>i<|im_", "eos", 4)),
        ({"stop": ("i<|im_end|>!",)}, ("h<|im_start|>i", "eos", 4)),
        ({"ignore_eos": True, "max_tokens": 5}, ("h<|im_start|>i!", "length", 5)),
        ({"ignore_eos": True, "max_tokens": 5, "special_tokens": "hide"}, ("hi!", "length", 5)),
        ({"ignore_eos": True, "max_tokens": 5, "special_tokens": "show"}, ("h<|im_start|>i<|im_end|>!", "length", 5)),
        ({"ignore_eos": True, "stop": ("<|im_end|>!",)}, ("h<|im_start|>i", "stop", 5)),
        ({"ignore_eos": True, "special_tokens": "show", "stop": ("<|im_end|>",)}, ("h<|im_start|>i", "stop", 4)),
    ],
)
def test_special_tokens_in_answers(tokenizer, options, ending):
    ids = tokenizer.encode("h<|im_start|>i<|im_end|>!").tolist()
    other = Tokenizer(tokenizer._tokenizer, SpecialTokens(eos=[EOS]))
    tokens = list(generate(Scripted([ids, [EOS]]), other, ["x", "y"], GenerateOptions(**options)))
    tokens = [token for token in tokens if token.index == 0]
    answer, reason, count = ending
    assert answers(tokens)[0] == answer
    assert [token.finish_reason for token in tokens] == [None] * (count - 1) + [reason]
    assert [token.id for token in tokens] == ids[:count]


@pytest.mark.parametrize("eos", ["i", "<|im_end|>"])
@pytest.mark.parametrize("choice", ["auto", "hide"])
def test_the_token_that_ends_an_answer_is_only_shown_if_all_are(tokenizer, eos, choice):
    """Also an eos that is no special token of the tokenizer."""
    ids = tokenizer.encode(f"h{eos}").tolist()
    other = Tokenizer(tokenizer._tokenizer, SpecialTokens(eos=ids[-1:]))
    for special_tokens, text in ((choice, "h"), ("show", f"h{eos}")):
        tokens = list(generate(Scripted([ids]), other, ["x"], GenerateOptions(special_tokens=special_tokens)))
        assert answers(tokens) == {0: text}


def test_an_answer_ends_at_the_max_length(tokenizer):
    runtime = Scripted([[104], [104]], max_length=10)
    batch = [np.arange(7), np.arange(9)]
    tokens = list(generate(runtime, tokenizer, batch, GenerateOptions(max_tokens=50)))
    assert [(token.index, token.finish_reason) for token in tokens] == [
        (0, None),
        (1, "length"),
        (0, None),
        (0, "length"),
    ]


def test_a_finished_sequence_is_emptied_unless_the_cache_is_kept(tokenizer):
    batch = [np.arange(100), np.arange(4)]
    runtime = Scripted([[EOS], [104]])
    list(generate(runtime, tokenizer, batch, GenerateOptions(max_tokens=5)))
    assert runtime.longest_step == [4, 5, 6, 7]

    runtime = Scripted([[EOS], [104]])
    cache = runtime.new_cache(2)
    list(generate(runtime, tokenizer, batch, GenerateOptions(max_tokens=5), cache))
    assert cache.tokens(0).tolist() == list(range(100))
    assert cache.tokens(1).tolist() == [0, 1, 2, 3, 104, 104, 104, 104]


def test_only_tokens_after_the_common_prefix_are_prefilled(tokenizer):
    runtime = Scripted([[104, 105, 106, EOS]])
    cache = runtime.new_cache()
    options = GenerateOptions(max_tokens=10)
    list(generate(runtime, tokenizer, [np.arange(20)], options, cache))
    cached = cache.tokens(0).tolist()
    assert cached == [*range(20), 104, 105, 106]
    list(generate(runtime, tokenizer, [np.array([*cached, 1, 2])], options, cache))
    changed = [*cached[:10], 200, *cached[11:]]
    list(generate(runtime, tokenizer, [np.array(changed)], options, cache))
    list(generate(runtime, tokenizer, [np.array(changed)], options, cache))
    assert runtime.prefilled == [20, 2, 13, 1]
    assert cache.tokens(0).tolist()[: len(changed)] == changed


def test_answers_with_a_kept_cache_equal_those_without(runtime, tokenizer, decoder):
    cache = runtime.new_cache(2)
    options = GenerateOptions(max_tokens=6, ignore_eos=True)
    first, second = prompts(11, 4)
    list(generate(runtime, tokenizer, [first, second], options, cache))
    longer = [np.append(cache.tokens(0), [5, 6]), np.append(second[:2], [7])]
    tokens = list(generate(runtime, tokenizer, longer, options, cache))
    for index in range(2):
        assert [token.id for token in tokens if token.index == index] == greedy(decoder, longer[index], 6)


def test_closing_the_iterator_keeps_the_tokens_in_the_cache(tokenizer):
    runtime = Scripted([[104, 105, 106, 107]])
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
        (
            ["fine", "h" * 9000],
            "prompt has 9000 tokens, the engine holds 600: shorten it or build the engine with a larger --max-length",
        ),
        (["h" * 600], "prompt has 600 tokens, which leaves no room for an answer in the 600 the engine holds"),
        ([np.array([4000])], "token id 4000 is outside the vocabulary of 259"),
    ],
)
def test_invalid_prompts_are_refused(runtime, tokenizer, given, message):
    with pytest.raises(RequestError, match=message):
        generate(runtime, tokenizer, given)


def test_a_bias_of_a_token_that_the_engine_does_not_have(runtime, tokenizer):
    options = GenerateOptions(sampling=SamplingOptions(logit_bias={259: 1.0}))
    with pytest.raises(RequestError, match="logit_bias has token 259, but the engine has 259 tokens"):
        generate(runtime, tokenizer, ["x"], options)


def test_the_most_likely_tokens_are_those_of_the_model(runtime, tokenizer, decoder):
    prompt = prompts(9)[0]
    options = GenerateOptions(max_tokens=4, ignore_eos=True, logprobs=True, top_logprobs=3)
    tokens = list(generate(runtime, tokenizer, [prompt], options))
    logits = decoder.forward(np.array([*prompt, *(token.id for token in tokens)]))[prompt.size - 1 : -1]
    for token, row in zip(tokens, logits, strict=True):
        assert [other for other, _ in token.top_logprobs] == np.argsort(-row)[:3].tolist()
        assert token.top_logprobs[0] == (token.id, token.logprob)


class Spelled:
    """Allows one sequence of tokens."""

    def __init__(self, script: list[int]) -> None:
        self.script = script

    def start(self):
        return SpelledState(self.script)


class SpelledState:
    def __init__(self, script) -> None:
        self.left = list(script)

    def allowed(self):
        mask = np.zeros(VOCAB // 32 + 1, dtype=np.uint32)
        mask[self.left[0] // 32] = 1 << self.left[0] % 32
        return mask

    def accept(self, token):
        assert token == self.left.pop(0)

    @property
    def ended(self):
        return not self.left


@pytest.mark.parametrize(
    ("ends_in_eos", "options", "ending"),
    [
        (False, {}, ("12345", "stop")),
        (True, {}, ("12345", "eos")),
        (True, {"ignore_eos": True}, ("12345", "stop")),
        (False, {"max_tokens": 5}, ("12345", "stop")),
        (False, {"max_tokens": 4}, ("1234", "length")),
        (False, {"stop": ("5x",)}, ("12345", "stop")),
        (False, {"stop": ("4",)}, ("123", "stop")),
    ],
)
def test_an_answer_ends_when_its_constraint_says_so(runtime, tokenizer, ends_in_eos, options, ending):
    script = tokenizer.encode("12345", add_special_tokens=False).tolist() + [EOS] * ends_in_eos
    chosen = GenerateOptions(constraint=Spelled(script), **options)
    for batch in (["x"], ["x", "abc"]):
        tokens = list(generate(runtime, tokenizer, batch, chosen))
        assert set(answers(tokens).values()) == {ending[0]}
        assert [token.finish_reason for token in tokens[-len(batch) :]] == [ending[1]] * len(batch)


def test_a_cache_of_another_batch_size(runtime, tokenizer):
    with pytest.raises(RequestError, match="the cache has batch size 2 for 1 prompts: give one of batch size 1"):
        generate(runtime, tokenizer, ["x"], cache=runtime.new_cache(2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": 0}, "max_tokens must be at least 1, got 0"),
        ({"stop": "END"}, "stop must be a tuple of strings, got 'END'"),
        ({"stop": ("a", "")}, "stop must be strings that are not empty"),
        ({"stop": ("a", "b\ud800")}, r"the text is not UTF-8 \(byte 1\): convert it first"),
        ({"top_logprobs": 21, "logprobs": True}, r"top_logprobs must be in \[0, 20\], got 21"),
        ({"top_logprobs": 1}, "top_logprobs goes with logprobs: give that too"),
        ({"special_tokens": "all"}, "special_tokens must be one of auto, show, hide, got all"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(RequestError, match=message):
        GenerateOptions(**options)
