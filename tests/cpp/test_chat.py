"""libedgekiln renders conversations from chat segments as Jinja renders the chat template."""

import json
import subprocess
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import pytest

from edgekiln.pipeline.chat_segments import find_segments
from edgekiln.runtimes.text.marked_text import marks_of
from support.chat_templates import TEMPLATES, conversations, renderer, takes
from support.cpp_host import program, refused

NOW = datetime(2031, 1, 2, 15, 30)


def replies(segments: Path, requests: Iterable[list[dict[str, str]]]) -> list[dict[str, str]]:
    given = "".join(json.dumps(messages) + "\n" for messages in requests)
    out = subprocess.run([program("edgekiln_chat"), segments], input=given.encode(), capture_output=True, check=True)
    return [json.loads(line) for line in out.stdout.splitlines()]


@pytest.mark.parametrize("family", TEMPLATES)
def test_prompts_are_those_of_the_template(family: str, tmp_path: Path) -> None:
    template, _, _ = TEMPLATES[family]
    segments = find_segments(renderer(template))
    fill = renderer(template, marks=True)
    assert segments is not None
    path = tmp_path / "chat_segments.json"
    path.write_text(segments.model_dump_json())
    requests = list(conversations())
    for messages, reply in zip(requests, replies(path, requests), strict=True):
        if takes(segments, messages):
            text = fill(messages, NOW.strftime)
            marks = "".join(
                str(mark) * len(character.encode()) for character, mark in zip(text, marks_of(text), strict=True)
            )
            assert reply == {"text": text, "marks": marks}
        else:
            assert reply["error"].startswith(
                ("the chat template does not take these messages: ", "this library renders ")
            )


def test_messages_without_segments(tmp_path: Path) -> None:
    path = tmp_path / "chat_segments.json"
    between = {"start": {"user": ["<", "%Y", ">"]}, "user": {"end": ["!"]}}
    path.write_text(
        json.dumps({"order": "any", "rules": {"user": "strip", "tool": "as-is"}, "needs_text": [], "between": between})
    )
    requests = [
        [],
        [{"role": "developer", "content": "x"}],
        [{"role": "user", "content": "x"}, {"role": "tool", "content": "y"}],
        [{"role": "user", "content": " x"}],
    ]
    assert replies(path, requests) == [
        {"error": "the conversation is empty: give at least one message"},
        {
            "error": "this library renders messages of the roles tool, user, got developer: leave such messages out, "
            "or render the chat template in the application and pass it as parts"
        },
        {"error": "the chat template does not take these messages: none may be tool after user"},
        {"text": "<2031>x!", "marks": "00000010"},
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "it is not JSON"),
        ("[]", "it is not an object"),
        ('{"order": "none"}', "order: none is not known"),
        ('{"order": "any", "rules": {"user": 1}}', "rules.user: it is not a string"),
        (
            '{"order": "any", "rules": {}, "needs_text": [], "between": {"start": {"end": [1]}}}',
            "between.start.end.0: it is not a string",
        ),
    ],
)
def test_damaged_segments(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "chat_segments.json").write_text(text)
    sentence = refused("edgekiln_chat", tmp_path / "chat_segments.json")
    assert sentence == f"chat_segments.json is damaged: {reason}, build the engine again"
