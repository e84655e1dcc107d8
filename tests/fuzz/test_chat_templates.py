"""Mutated chat templates: they render a conversation and are split into segments, or are refused in one sentence."""

from random import Random

import pytest
from tokenizers import Tokenizer as FastTokenizer

from edgekiln.engine.manifest import SpecialTokens
from edgekiln.pipeline.chat_segments import find_segments
from edgekiln.runtimes.text.tokenizer import Tokenizer
from support.fuzzing import Fuzzer
from support.models import tiny_tokenizer
from support.template_mutations import mutate

pytestmark = pytest.mark.slow
# Segments take hundreds of renderings.
SEGMENTS_ONE_IN = 20
MESSAGES = [
    {"role": "system", "content": "You help."},
    {"role": "user", "content": "Hello <|end|> {{ 7 * 7 }} 日本"},
    {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHi."},
    {"role": "user", "content": ""},
]


def test_templates(fuzzer: Fuzzer) -> None:
    text = tiny_tokenizer().backend_tokenizer.to_str()
    special_tokens = SpecialTokens(bos=256, eos=[257], pad=258)

    def case(random: Random) -> None:
        tokenizer = Tokenizer(FastTokenizer.from_str(text), special_tokens, mutate(random))
        if random.randrange(SEGMENTS_ONE_IN) == 0:
            find_segments(lambda messages, now: tokenizer.apply_chat_template(messages, strftime_now=now))
        tokenizer.encode_chat(MESSAGES)

    fuzzer.run(case)
