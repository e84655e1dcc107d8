"""Chat segments render the text of the chat template, for every conversation that they accept."""

import dataclasses
from pathlib import Path

import pytest

from edgekiln.pipeline import chat_segments as module
from edgekiln.pipeline.build import build_engine
from edgekiln.pipeline.chat_segments import chat_segments, check_chat_templates, find_segments
from edgekiln.pipeline.options import BuildOptions
from edgekiln.runtimes.text.template_budget import TemplateLimitError
from edgekiln.sources.base import ModelSource
from edgekiln.sources.resolve import resolve
from support.chat_templates import TEMPLATES, UNSUPPORTED, conversations, renderer, takes


@pytest.mark.parametrize("family", TEMPLATES)
def test_segments_render_as_the_template_does(family):
    template, order, system = TEMPLATES[family]
    segments = find_segments(renderer(template))
    assert segments is not None
    assert (segments.order, "system" in segments.rules) == (order, system)
    accepted = 0
    for messages in conversations():
        if takes(segments, messages):
            accepted += 1
            today = "{} today".format
            assert segments.render(messages, today) == renderer(template)(messages, today)
    assert accepted >= 4
    assert bool(segments.needs_text) == (family == "blanks")


@pytest.mark.parametrize("template", UNSUPPORTED.values(), ids=UNSUPPORTED.keys())
def test_templates_that_segments_cannot_express(template):
    assert find_segments(renderer(template)) is None


@pytest.fixture(scope="module")
def source(tiny_checkpoint: Path) -> ModelSource:
    return resolve(str(tiny_checkpoint))


ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize("templates", [ENDLESS, {"rag": ENDLESS}, "{{ 'x' * 30000000 }}"])
def test_a_template_that_does_not_end_ends_the_build_before_it_traces(
    source: ModelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, templates: str | dict[str, str]
) -> None:
    endless = dataclasses.replace(source, chat_template=templates)
    with pytest.raises(TemplateLimitError, match="use a model with another template"):
        check_chat_templates(endless)
    monkeypatch.setattr("edgekiln.pipeline.build.assemble", None)  # not callable
    with pytest.raises(TemplateLimitError, match="use a model with another template"):
        build_engine(endless, tmp_path / "engine", BuildOptions())
    assert not list(tmp_path.iterdir())


def test_a_template_that_refuses_the_conversation_does_not_end_the_build(source: ModelSource) -> None:
    refusing = {"default": "{{ raise_exception('tools are needed') }}", "rag": "{{ documents[0].title }}"}
    check_chat_templates(dataclasses.replace(source, chat_template=refusing))


def test_a_slow_template_has_no_segments(source: ModelSource, monkeypatch: pytest.MonkeyPatch) -> None:
    rendered = []
    render = module.render
    monkeypatch.setattr(module, "render", lambda *args, **options: rendered.append(1) or render(*args, **options))
    template = "{% for i in range(20000) %}{% endfor %}{% for m in messages %}{{ m.content }}{% endfor %}"
    slow = dataclasses.replace(source, chat_template=template)
    check_chat_templates(slow)
    assert chat_segments(slow) is None
    assert len(rendered) < 50


def test_segments_are_those_of_the_default_template(source: ModelSource) -> None:
    plain, other = ("{% for m in messages %}" + text + "{{ m.content }}{% endfor %}" for text in ("", "<{{ m.role }}>"))
    named = dataclasses.replace(source, chat_template={"default": plain, "other": other})
    assert chat_segments(named) == chat_segments(dataclasses.replace(source, chat_template=plain)) is not None
    assert chat_segments(dataclasses.replace(source, chat_template={"other": other})) is None
