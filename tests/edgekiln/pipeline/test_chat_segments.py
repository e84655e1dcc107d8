"""Chat pieces give what the template gives, for every conversation that they take."""

import pytest

from edgekiln.pipeline.chat_segments import find_segments
from support.chat_templates import NO_PIECES, PIECES, conversations, renderer, takes


@pytest.mark.parametrize("family", PIECES)
def test_pieces_give_what_the_template_gives(family):
    template, order, system = PIECES[family]
    pieces = find_segments(renderer(template))
    assert pieces is not None
    assert (pieces.order, "system" in pieces.rules) == (order, system)
    taken = 0
    for messages in conversations():
        if takes(pieces, messages):
            taken += 1
            today = "{} today".format
            assert pieces.render(messages, today) == renderer(template)(messages, today)
    assert taken >= 4
    assert bool(pieces.needs_text) == (family == "blanks")


@pytest.mark.parametrize("template", NO_PIECES.values(), ids=NO_PIECES.keys())
def test_templates_that_are_no_pieces(template):
    assert find_segments(renderer(template)) is None
