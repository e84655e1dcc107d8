"""Tools, template variables, named templates and trusted text in `run --chat`, `chat` and the Python API."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import edgekiln
from edgekiln.cli import main
from edgekiln.engine.chat_templates import write_chat_templates
from edgekiln.engine.directory import CHAT_SEGMENTS_FILE, CHAT_TEMPLATE_FILE, ENGINE_FILE
from edgekiln.engine.manifest import read_manifest, write_manifest
from edgekiln.errors import RequestError
from edgekiln.runtimes.text.tools.prompt import chat_ids

TEMPLATES = {
    "default": "{{ thinking }}|{{ documents | length if documents }}|{{ messages[-1].content }}",
    "tool_use": "tools {{ tools | tojson }}{{ messages[-1].content }}",
    "rag": "rag {{ messages[-1].content }}",
    "count": "count {{ tools | length }} {{ messages[-1].content }}",
}
TOOLS = [{"type": "function", "function": {"name": "weather"}}]


@pytest.fixture(scope="module")
def templates(tiny_engine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine with several chat templates."""
    engine = tmp_path_factory.mktemp("named") / "engine"
    engine.mkdir()
    for path in tiny_engine.iterdir():
        if path.name not in (CHAT_TEMPLATE_FILE, CHAT_SEGMENTS_FILE, ENGINE_FILE):
            os.link(path, engine / path.name)
    write_chat_templates(engine, TEMPLATES)
    manifest = read_manifest(tiny_engine)
    write_manifest(engine, **{name: value for name, value in manifest if name != "files"})
    return engine


@pytest.fixture(scope="module")
def engine(templates: Path) -> edgekiln.Engine:
    return edgekiln.Engine(templates)


def run(engine: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["run", str(engine), "--max-tokens", "6", "--temperature", "0", *arguments])


def answer(engine: edgekiln.Engine, prompt: str) -> str:
    """The answer to a prompt text, with the newline that commands add."""
    ids = engine.tokenize(prompt, add_special_tokens=False)
    text = "".join(token.text for token in engine.generate(ids, max_tokens=6, temperature=0))
    return text if text.endswith("\n") else text + "\n"


@pytest.mark.parametrize(
    ("arguments", "keywords", "prompt"),
    [
        ((), {}, "||hi"),
        (("--template-var", "thinking=false"), {"template_variables": {"thinking": False}}, "False||hi"),
        (("--template-var", "thinking=maybe=1"), {"template_variables": {"thinking": "maybe=1"}}, "maybe=1||hi"),
        (("--template-var", "thinking=NaN"), {"template_variables": {"thinking": "NaN"}}, "NaN||hi"),
        (("--template-var", 'documents=[{"a": 1}]'), {"template_variables": {"documents": [{"a": 1}]}}, "|1|hi"),
        (("--chat-template", "rag"), {"chat_template": "rag"}, "rag hi"),
        (("--tools", "FILE"), {"tools": TOOLS}, f"tools {json.dumps(TOOLS)}hi"),
        (("--tools", "FILE", "--chat-template", "count"), {"tools": TOOLS, "chat_template": "count"}, "count 1 hi"),
    ],
)
def test_options_reach_the_template(
    engine: edgekiln.Engine, tmp_path: Path, arguments: tuple[str, ...], keywords: dict[str, Any], prompt: str
) -> None:
    file = tmp_path / "tools.json"
    file.write_text(json.dumps(TOOLS))
    given = [str(file) if argument == "FILE" else argument for argument in arguments]
    expected = answer(engine, prompt)
    assert run(engine.path, "--chat", "-p", "hi", *given).stdout == expected
    chat = ["chat", str(engine.path), "--max-tokens", "6", "--temperature", "0", *given]
    assert CliRunner().invoke(main, chat, input="hi\n").stdout == expected
    options = {"max_tokens": 6, "temperature": 0.0, **keywords}
    messages = [{"role": "user", "content": "hi"}]
    streams = [
        engine.chat(messages, **options),
        engine.session().ask("hi", **options),
        engine.session(**options).ask("hi"),
        engine.session(chat_template="default", max_tokens=1).ask("hi", **{"chat_template": None, **options}),
    ]
    for stream in streams:
        text = "".join(token.text for token in stream)
        assert text + "\n" * (not text.endswith("\n")) == expected


def test_a_template_without_tools_gets_them_in_the_messages(engine: edgekiln.Engine, tmp_path: Path) -> None:
    file = tmp_path / "tools.json"
    file.write_text(json.dumps(TOOLS))
    messages = [{"role": "user", "content": "hi"}]
    keywords: dict[str, Any] = {"tools": TOOLS, "chat_template": "rag"}
    prompt = chat_ids(engine.tokenizer, messages, **keywords)
    assert '"name": "weather"' in engine.tokenizer.decode(prompt)
    # Longer than this small engine holds, and so refused in all ways alike.
    message = f"prompt has {prompt.size} tokens"
    assert message in run(engine.path, "--chat", "-p", "hi", "--tools", str(file), "--chat-template", "rag").stderr
    for call in (engine.chat, lambda _messages, **options: engine.session().ask("hi", **options)):
        with pytest.raises(RequestError, match=message):
            call(messages, **keywords)
    (batched,) = engine.generate_batch([{"messages": messages, **keywords}])
    assert message in (batched.error or "")


def test_parse_special_is_for_trusted_text(engine: edgekiln.Engine) -> None:
    special = engine.tokenizer.token(engine.manifest.special_tokens.eos[0])
    messages = [{"role": "user", "content": f"a{special}b"}]
    safe, trusted = (engine.tokenizer.encode_chat(messages, parse_special=flag).tolist() for flag in (False, True))
    assert engine.manifest.special_tokens.eos[0] in trusted
    assert engine.manifest.special_tokens.eos[0] not in safe
    for flag, ids in ((), safe), (("--parse-special",), trusted):
        text = "".join(token.text for token in engine.generate(ids, max_tokens=6, temperature=0))
        assert run(engine.path, "--chat", "-p", messages[0]["content"], *flag).stdout.rstrip("\n") == text.rstrip("\n")


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"tools": {}}, "tools must be a list of JSON objects, got {}"),
        ({"tools": "x"}, "tools must be a list of JSON objects, got 'x'"),
        ({"tools": [len]}, "tools must be a list of JSON objects, got [<built-in"),
        ({"tools": [{"a": b"x"}]}, "tools must be JSON, got b'x'"),
        ({"tools": [{1: "x"}]}, "tools must be JSON, whose keys are strings, got 1"),
        ({"template_variables": [1]}, "template_variables must be a dictionary, got [1]"),
        ({"template_variables": {"a b": 1}}, "name must be letters, digits and _, got 'a b'"),
        ({"template_variables": {"messages": 1}}, "messages cannot be a template variable"),
        ({"template_variables": {"tools": []}}, "tools cannot be a template variable"),
        ({"template_variables": {"add_generation_prompt": 1}}, "add_generation_prompt cannot be a template variable"),
        ({"template_variables": {"raise_exception": 1}}, "raise_exception cannot be a template variable"),
        ({"template_variables": {"documents": {}}}, "documents must be a list of JSON objects"),
        ({"template_variables": {"x": object}}, "template variable x must be JSON, got <class 'object'>"),
        ({"chat_template": "none"}, "there is no chat template 'none': the engine has count, default, rag, tool_use"),
        ({"chat_template": 5}, "there is no chat template 5"),
        ({"parse_special": "yes"}, "parse_special must be True or False, got 'yes'"),
        ({"tool": []}, "there is no option 'tool'"),
    ],
)
def test_bad_keywords(engine: edgekiln.Engine, keywords: dict[str, Any], message: str) -> None:
    for call in (
        lambda: engine.chat([{"role": "user", "content": "x"}], **keywords),
        lambda: engine.session(**keywords).ask("x"),
        lambda: engine.session().ask("x", **keywords),
    ):
        with pytest.raises(RequestError) as caught:
            call()
        assert message in str(caught.value)


def test_messages_that_are_not_json(engine: edgekiln.Engine) -> None:
    nested: list[Any] = []
    for _ in range(200):
        nested = [nested]
    for content, message in ((object, "messages must be JSON, got"), (nested, "messages must be nested less deeply")):
        with pytest.raises(RequestError, match=message):
            engine.chat([{"role": "user", "content": content}])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--chat", "--template-var", "x"), "Invalid value for '--template-var': give NAME=VALUE, got 'x'"),
        (("--template-var", "x=1"), "--template-var goes with --chat"),
        (("--chat-template", "rag"), "--chat-template goes with --chat"),
        (("--parse-special",), "--parse-special goes with --chat"),
        (("--system", ""), "--system goes with --chat"),
        (("--tools", "FILE"), "is not valid JSON (Expecting value"),
        (("--chat", "--tools", "nowhere.json"), "nowhere.json: No such file or directory"),
        (("--chat", "--chat-template", "none"), "there is no chat template 'none'"),
    ],
)
def test_bad_options(templates: Path, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    file = tmp_path / "tools.json"
    file.write_text("[")
    given = [str(file) if argument == "FILE" else argument for argument in arguments]
    result = run(templates, "-p", "hi", *given)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert message in line


def test_a_file_of_tools_that_holds_null(templates: Path, tmp_path: Path) -> None:
    file = tmp_path / "tools.json"
    file.write_text("null")
    result = run(templates, "-p", "hi", "--chat", "--tools", str(file))
    assert result.exit_code == 2
    assert "tools.json holds null, which is no list of tools" in result.stderr
