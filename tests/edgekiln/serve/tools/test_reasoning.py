"""Reasoning at the beginning of answers, cut into pieces anywhere."""

import random

import pytest

from edgekiln.serve.tools.deltas import ReasoningDelta
from edgekiln.serve.tools.parser import text_of
from edgekiln.serve.tools.reasoning import reasoning_splitter_for

TEMPLATE = "{{ '<think>' }}{{ message.content.split('</think>') }}"


@pytest.mark.parametrize(
    ("prompt", "answer", "expected"),
    [
        ("", "<think>\nHm.\n</think>\n\nYes.\n", ("Hm.", "Yes.\n")),
        ("", " \n<think>a < b </thin> c</think>d<think>e</think>", ("a < b </thin> c", "d<think>e</think>")),
        ("", "Yes. <think>no</think>", ("", "Yes. <think>no</think>")),
        ("", "<thin", ("", "<thin")),
        ("", "<thing>", ("", "<thing>")),
        ("", "  \n", ("", "  \n")),
        ("", "<think>\n\n</think>\n\nYes", ("", "Yes")),
        ("", "<think>cut off </th", ("cut off </th", "")),
        ("<|im_start|>assistant\n<think>\n", "Hm.\n</think>\n\nYes.", ("Hm.", "Yes.")),
        ("<|im_start|>assistant\n<think>\n", "Hm", ("Hm", "")),
        ("<think>\n\n</think>\n\n", "Yes", ("", "Yes")),
    ],
)
def test_answers(prompt, answer, expected):
    for cut in range(20):
        splitter, generator, text, deltas = reasoning_splitter_for(TEMPLATE, prompt), random.Random(cut), answer, []
        while text:
            size = generator.randint(1, 6) if cut else len(text)
            deltas += splitter.push(text[:size])
            text = text[size:]
        deltas += splitter.finish()
        reasoning = "".join(delta.text for delta in deltas if isinstance(delta, ReasoningDelta))
        assert (reasoning, text_of(deltas)) == expected


def test_other_tags_and_none():
    splitter = reasoning_splitter_for("[THINK]{{ x }}[/THINK]", "")
    assert splitter.push("[THINK]a") == [ReasoningDelta("a")]
    assert reasoning_splitter_for("{{ messages }}", "") is None
