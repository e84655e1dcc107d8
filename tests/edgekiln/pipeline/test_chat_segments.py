"""Chat segments render the text of the chat template, for every conversation that they accept."""

import pytest

from edgekiln.pipeline.chat_segments import find_segments
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
