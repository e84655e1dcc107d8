"""Answers of a real model in JSON of a hundred schemas are valid, and the same with speculation."""

import json

import jsonschema
import pytest

import edgekiln
from edgekiln.runtimes.generate.answer import Token
from edgekiln.runtimes.generate.speculative_decoder import SpeculationStats
from support.json_schemas import schema


@pytest.fixture(scope="module", params=["int8", "int4"])
def engine(request, real_engine):
    return edgekiln.Engine.open(real_engine(request.param))


def answer(engine: edgekiln.Engine, made: dict, **options) -> list[Token]:
    messages = [{"role": "user", "content": "Give an example of a JSON object."}]
    return list(engine.chat(messages, json_schema=made, max_tokens=600, **options))


@pytest.mark.slow
def test_a_hundred_schemas(engine):
    for index in range(100):
        made = schema(index)
        options = {"temperature": 0.0} if index % 2 else {"temperature": 1.0, "top_p": 0.95, "seed": index}
        tokens = answer(engine, made, **options)
        text = "".join(token.text for token in tokens)
        assert tokens[-1].finish_reason in ("stop", "eos"), (index, text)
        jsonschema.validate(json.loads(text), made, format_checker=jsonschema.FormatChecker())


@pytest.mark.slow
@pytest.mark.parametrize("index", [3, 40, 77, 99])
def test_speculation_gives_the_same_json(engine, index):
    stats = SpeculationStats()
    messages = [{"role": "user", "content": "Repeat: " + 4 * '{"name": "blue", "size": 12, "city": true}\n'}]
    plain = list(engine.chat(messages, json_schema=schema(index), speculate=False, max_tokens=300))
    tokens = list(engine.chat(messages, stats, json_schema=schema(index), max_tokens=300))
    assert [token.id for token in tokens] == [token.id for token in plain]
