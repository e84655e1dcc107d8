"""Answers of libedgekiln with the masks of a grammar are those of Python with the grammar."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from edgekiln import runtimes
from edgekiln.engine.manifest import read_manifest
from edgekiln.runtimes.generate.generate import generate
from edgekiln.runtimes.generate.options import GenerateOptions
from edgekiln.runtimes.grammar.compile import compile_grammar
from edgekiln.runtimes.sampling.constraint import Constraint
from edgekiln.runtimes.sampling.sampler import SamplingOptions
from edgekiln.runtimes.text.tokenizer import Tokenizer
from support.cpp_host import CANCELLED, FINISHES, OK, REQUEST, Host
from support.engines import build

END, ANY, CANCEL = {"result": 2}, {"result": 1}, {"result": 3}
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "kind": {"enum": ["red", "green"]},
        "sizes": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "maxItems": 3},
    },
    "required": ["name", "kind", "sizes"],
}
PROMPT = np.tile([5, 71, 5, 130], 8)
SAMPLING: list[dict[str, Any]] = [
    {},
    {"repetition_penalty": 0.5},
    {"temperature": 1.0, "seed": 4},
    {"temperature": 1.5, "top_p": 0.9, "top_k": 40, "min_p": 0.001, "seed": 5},
    {"temperature": 0.8, "repetition_penalty": 1.1, "seed": 6},
]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("mask"), "llama", "int8", "float32")


@pytest.fixture(scope="module")
def tokenizer(engine: Path) -> Tokenizer:
    return Tokenizer.from_engine(engine, read_manifest(engine, verify=False))


@pytest.fixture
def host(engine: Path) -> Iterator[Host]:
    with Host(engine, threads=1) as host:
        assert host.hello["status"] == OK, host.hello
        yield host


def masks_of(constraint: Constraint) -> Callable[[list[int]], dict[str, Any]]:
    """The masks of one answer."""
    state, accepted = constraint.start(), []

    def mask(answer: list[int]) -> dict[str, Any]:
        assert answer[: len(accepted)] == accepted
        for token in answer[len(accepted) :]:
            state.accept(token)
            accepted.append(token)
        return END if answer and state.ended else {"words": state.allowed().tolist()}

    return mask


@pytest.mark.parametrize("speculate", [True, False])
@pytest.mark.parametrize(
    ("kind", "grammar"),
    [("json_schema", SCHEMA), ("regex", "(ab|ba){30}"), ("regex", "[a-c]+"), ("lark", 'start: "x" | "(" start ")"')],
)
def test_answers_are_those_of_python(
    engine: Path, tokenizer: Tokenizer, host: Host, kind: Any, grammar: Any, speculate: bool
) -> None:
    runtime, constraint = runtimes.open(engine, threads=1), compile_grammar(tokenizer, kind, grammar)
    for sampling in SAMPLING:
        options = GenerateOptions(max_tokens=70, constraint=constraint, sampling=SamplingOptions(**sampling))
        expected = list(generate(runtime, tokenizer, [PROMPT], options))
        request = {"max_tokens": 70, "reset": True, "speculate": speculate} | sampling
        reply = host.ask(PROMPT, masks_of(constraint), **request)
        assert reply["status"] == OK, reply
        assert reply["ids"] == [token.id for token in expected], sampling
        assert reply["text"] == "".join(token.text for token in expected)
        assert FINISHES[reply["finish"]] == expected[-1].finish_reason
        if kind == "json_schema" and expected[-1].finish_reason != "length":
            jsonschema.validate(json.loads(reply["text"]), SCHEMA)
        assert speculate or reply["drafted_tokens"] == 0


def test_drafts_are_accepted_with_masks(tokenizer: Tokenizer, host: Host) -> None:
    constraint = compile_grammar(tokenizer, "regex", "(ab){60}")
    plain = host.ask(PROMPT, masks_of(constraint), max_tokens=120, speculate=False)
    reply = host.ask(PROMPT, masks_of(constraint), max_tokens=120, reset=True)
    assert reply["ids"] == plain["ids"]
    assert reply["text"] == "ab" * 60
    assert FINISHES[reply["finish"]] == "stop"
    if host.hello["max_verify_tokens"] > 1:
        assert reply["accepted_tokens"] > 0


def test_a_mask_is_asked_for_each_token(host: Host) -> None:
    asked: list[list[int]] = []

    def mask(answer: list[int]) -> dict[str, Any]:
        asked.append(answer)
        return ANY

    plain = host.ask(PROMPT, max_tokens=8, ignore_eos=True)
    reply = host.ask(PROMPT, mask, max_tokens=8, ignore_eos=True, logprobs=True)
    assert reply["ids"] == plain["ids"]
    assert asked == [plain["ids"][:size] for size in range(9)]


def test_a_complete_answer(host: Host) -> None:
    reply = host.ask(PROMPT, lambda answer: END if len(answer) == 3 else ANY, max_tokens=8, ignore_eos=True)
    assert (len(reply["ids"]), FINISHES[reply["finish"]]) == (3, "stop")
    reply = host.ask(PROMPT, lambda _: END, max_tokens=8)
    assert (reply["status"], reply["ids"], FINISHES[reply["finish"]]) == (OK, [], "stop")


def test_the_end_of_sequence_token_may_be_demanded(tokenizer: Tokenizer, host: Host) -> None:
    (eos, *_) = tokenizer.eos_ids
    words = [0] * 10
    words[eos // 32] = 1 << eos % 32
    reply = host.ask(PROMPT, lambda _: {"words": words}, max_tokens=8)
    assert (reply["ids"], FINISHES[reply["finish"]]) == ([eos], "eos")


@pytest.mark.parametrize(
    ("given", "status", "message"),
    [
        ({"words": []}, REQUEST, "the mask allows no token that the model can choose: allow one, or end the answer"),
        ({"result": 9}, REQUEST, "the mask callback must return an edgekiln_mask_result, 0 to 3, got 9"),
        (CANCEL, CANCELLED, "the answer was cancelled"),
    ],
)
@pytest.mark.parametrize("after", [0, 2])
def test_masks_that_end_an_answer_with_an_error(
    host: Host, given: dict[str, Any], status: int, message: str, after: int
) -> None:
    plain = host.ask(PROMPT, max_tokens=8, ignore_eos=True)
    reply = host.ask(PROMPT, lambda answer: given if len(answer) == after else ANY, max_tokens=8, ignore_eos=True)
    assert (reply["status"], reply["error"]) == (status, message)
    assert host.ask(PROMPT, max_tokens=8, ignore_eos=True)["ids"] == plain["ids"]
