"""Chat templates that would run for hours or fill the memory end in one sentence; honest ones do not."""

import _thread
import resource
import threading
import time
import tracemalloc

import pytest

from edgekiln.errors import RequestError
from edgekiln.runtimes.text.chat_template import render
from edgekiln.runtimes.text.marked_text import given_message
from edgekiln.runtimes.text.template_budget import MAX_SOURCE, MAX_TAGS, TemplateLimitError
from support.chat_templates import TEMPLATES

MESSAGES = [{"role": "user", "content": "hi"}]
GROW = "{% set ns = namespace(s=START, t=START) %}{% for i in range(60) %}{% set ns.s = STEP %}{% endfor %}END"


def grow(start: str, step: str, end: str = "") -> str:
    return GROW.replace("START", start).replace("STEP", step).replace("END", end)


def loop(body: str, before: str = "") -> str:
    return f"{before}{{% for i in range(99999) %}}{{% for j in range(99) %}}{body}{{% endfor %}}{{% endfor %}}"


WIDTH = "pads text to 999999999 characters"
LONG = "writes too much text"
SLOW = "takes too many steps"
ENDLESS = {
    "nested loops": (loop(""), SLOW),
    "loops that write": (loop("x"), SLOW),
    "loops that skip": (loop("{% for k in range(99999) if false %}{% endfor %}"), SLOW),
    "recursive loop": ("{% for x in [1] recursive %}{{ loop([1, 1]) }}{% endfor %}", "recursion"),
    "recursive macro": ("{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}", "recursion"),
    "recursive block": ("{% block a %}{{ self.a() }}{% endblock %}", "recursion"),
    "calls": (loop("{{ messages[0].items() }}"), SLOW),
    "cycler": (loop("{{ c.next() }}", "{% set c = cycler(1, 2) %}"), SLOW),
    "generators": (loop("{% set t = range(99999) | select('odd') | map('string') | list %}"), SLOW),
    "slices": (loop("{% set t = s[1:] %}", "{% set s = 'x' * 3000000 %}"), SLOW),
    "comparisons": (loop("{% if s == s %}{% endif %}", "{% set s = 'x' * 3000000 %}"), SLOW),
    "searches": (loop("{% if 'y' in s %}{% endif %}", "{% set s = 'x' * 3000000 %}"), SLOW),
    "sorting": (loop("{% set t = s | sort %}", "{% set s = range(99999) | list %}"), SLOW),
    "words": ("{% set s = 'ab ' * 1000000 %}{% for i in range(99) %}{% set t = s | wordcount %}{% endfor %}", SLOW),
    "groups": (loop("{% set t = range(9999) | groupby('real') %}"), SLOW),
    "letters": (loop("{% if s is upper %}{% endif %}", "{% set s = 'X' * 3000000 %}"), SLOW),
    "positions": (loop("{% set t = s.count(1) %}", "{% set s = range(99999) | list %}"), SLOW),
    "sums of lists": ("{{ ([[1] * 1000] * 30000) | sum(start=[]) | length }}", f"{SLOW}|{LONG}"),
    "text times a number": ("{{ 'x' * 30000000 }}", LONG),
    "a number times text": ("{% set a = 30000000 * 'x' %}", LONG),
    "list times a number": ("{{ ([0] * 300000000) | length }}", LONG),
    "power": ("{{ 9 ** (9 ** 9) }}", "a power is too large"),
    "product": (grow("9", "ns.s * ns.s"), "a product is too large"),
    "replace": (grow("'x'", "ns.s | replace('x', 'xx')"), f"{LONG}|{SLOW}"),
    "replace of nothing": ("{{ ('x' * 100000).replace('', 'y' * 100000) }}", LONG),
    "concatenation": (grow("'x'", "ns.s ~ ns.s"), LONG),
    "addition": (grow("'x'", "ns.s + ns.s"), LONG),
    "addition of lists": (grow("[1]", "ns.s + ns.s"), f"{LONG}|{SLOW}"),
    "set blocks": (
        "{% set ns = namespace(s='x') %}" + loop("{% set t %}{{ ns.s }}{{ ns.s }}{% endset %}{% set ns.s = t %}"),
        LONG,
    ),
    "macros": ("{% macro f(s) %}{{ s }}{{ s }}{% endmacro %}" + grow("'x'", "f(ns.s)"), LONG),
    "join": ("{{ ('x' * 100000).join(['a'] * 10000) }}", LONG),
    "join filter": ("{{ (['a'] * 10000) | join('x' * 100000) }}", LONG),
    "nested lists": (grow("[1]", "[ns.s, ns.s]", "{{ ns.s }}"), LONG),
    "nested lists as JSON": (grow("[1]", "[ns.s, ns.s]", "{{ ns.s | tojson }}"), LONG),
    "nested lists in a format": (grow("[1]", "[ns.s, ns.s]", "{{ '%s' % (ns.s,) }}"), LONG),
    "nested lists in str.format": (grow("[1]", "[ns.s, ns.s]", "{{ '{0.s!r}'.format(ns) }}"), LONG),
    "nested lists compared": (grow("[1]", "[ns.s, ns.s]", "{{ ns.s == [ns.s] }}"), LONG),
    "nested dictionaries": (grow("1", "dict(a=ns.s, b=ns.s)", "{{ ns.s }}"), LONG),
    "nested tuples as a key": (grow("(1,)", "(ns.s, ns.s)", "{{ {ns.s: 1} | length }}"), LONG),
    "nested tuples as an index": (grow("(1,)", "(ns.s, ns.s)", "{{ messages[0][ns.s] }}"), LONG),
    "nested arguments": (
        "{% macro f(n) %}{% if n > 0 %}{{ f(n - 1, varargs, varargs) }}{% else %}{{ varargs }}{% endif %}{% endmacro %}"
        "{{ f(60, 1) }}",
        LONG,
    ),
    "format": ("{{ '%999999999d' % 1 }}", WIDTH),
    "format with a star": ("{{ '%*d' % (999999999, 1) }}", WIDTH),
    "format with a precision": ("{{ '%.999999999f' % 1.0 }}", WIDTH),
    "format filter": ("{{ '%999999999d' | format(1) }}", WIDTH),
    "str.format": ("{{ '{:>999999999}'.format('a') }}", WIDTH),
    "str.format with a field as width": ("{{ '{:>{w}}'.format('a', w=999999999) }}", WIDTH),
    "str.format_map": ("{{ '{a:>999999999}'.format_map({'a': 1}) }}", WIDTH),
    "center": ("{{ 'x' | center(999999999) }}", WIDTH),
    "center block": ("{% filter center(999999999) %}x{% endfilter %}", WIDTH),
    "ljust": ("{{ 'x'.ljust(999999999) }}", WIDTH),
    "expandtabs": ("{{ '\\t'.expandtabs(999999999) }}", WIDTH),
    "indent": ("{{ 'x\\nx' | indent(999999999) }}", WIDTH),
    "indent of JSON": ("{{ [1] | tojson(indent=999999999) }}", WIDTH),
    "separators of JSON": ("{{ (['a'] * 10000) | tojson(separators=('x' * 100000, ':')) }}", LONG),
    "wordwrap": ("{{ ('x ' * 10000) | wordwrap(1, wrapstring='x' * 100000) }}", LONG),
    "batch": ("{{ [1] | batch(999999999, 1) | list | length }}", WIDTH),
    "round": ("{{ 1 | round(999999999, 'ceil') }}", "pads text"),
    "strftime": ("{{ strftime_now('%999999999d') }}", WIDTH),
    "translate": ("{{ 'x'.translate({120: 'y'}) }}", "translate is not offered"),
    "to_bytes": ("{{ (1).to_bytes(999999999, 'big') }}", "to_bytes is not offered"),
    "lipsum": ("{{ lipsum(n=99999999) }}", "'lipsum' is undefined"),
    "a long source": ("x" * (MAX_SOURCE + 1), f"has {MAX_SOURCE + 1} characters, over {MAX_SOURCE}"),
    "many tags": ("{{a}}" * (MAX_TAGS + 1), f"has over {MAX_TAGS} tags"),
    "parentheses": ("{{ " + "(" * 40_000 + "1" + ")" * 40_000 + " }}", "recursion"),
    "nested blocks": ("{% if 1 %}" * 2400 + "{% endif %}" * 2400, "recursion|indentation|nested"),
    "sums": ("{{ " + "1+" * 40_000 + "1 }}", "recursion"),
}


@pytest.mark.parametrize("marks", [False, True], ids=["trusted", "marked"])
@pytest.mark.parametrize(("template", "reason"), ENDLESS.values(), ids=ENDLESS.keys())
def test_a_template_that_does_not_end(template: str, reason: str, marks: bool) -> None:
    messages = [given_message(message) for message in MESSAGES] if marks else MESSAGES
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(RequestError, match=reason) as caught:
        render(template, {"messages": messages}, marks)
    assert time.process_time() - began < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KB
    assert "\n" not in str(caught.value)


def test_a_template_that_is_refused_is_told_from_one_that_refuses() -> None:
    with pytest.raises(TemplateLimitError):
        render(loop(""), {"messages": MESSAGES})
    with pytest.raises(RequestError) as caught:
        render("{{ raise_exception('no') }}", {"messages": MESSAGES})
    assert not isinstance(caught.value, TemplateLimitError)


@pytest.mark.parametrize("family", TEMPLATES)
def test_a_long_conversation_is_rendered(family: str) -> None:
    roles = ["user", "assistant"] * 1000
    messages = [{"role": role, "content": "word " * 200} for role in [*roles, "user"]]
    text = render(
        TEMPLATES[family][0], {"messages": messages, "bos_token": "", "eos_token": "", "add_generation_prompt": True}
    )
    assert len(text) > 1_000_000


def test_long_conversations_may_be_inspected_for_each_message() -> None:
    template = """\
{%- macro is_last(messages, index) -%}{{ index == messages | length - 1 }}{%- endmacro -%}
{%- for m in messages -%}
    {%- if messages | length > 1 and messages is iterable and (messages | last).role == 'user' -%}
        {%- if 'content' in m and m.content is string and m == messages[loop.index0] -%}
            {{ is_last(messages, loop.index0) }}{{ (messages[loop.index0 + 1:] | first | default({})).role }}
        {%- endif -%}
    {%- endif -%}
    {{ (messages | selectattr('role', 'equalto', 'user') | first).content | length }}{{ m.content }}
{%- endfor -%}"""
    roles = [*(["user", "assistant"] * 500), "user"]
    messages = [{"role": role, "content": "word " * 200} for role in roles]
    assert len(render(template, {"messages": messages})) > 1_000_000


def test_a_text_larger_than_the_limit_of_templates_is_rendered() -> None:
    content = "x y" * 5_000_000
    template = "{% for m in messages %}<{{ m.content | trim }}>{% endfor %}"
    assert render(template, {"messages": [{"role": "user", "content": content}]}) == f"<{content}>"


def _render_for_long() -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        with pytest.raises(TemplateLimitError):
            render(loop(""), {"messages": MESSAGES})


@pytest.mark.parametrize("expression", ["text % {'a': value}", "text | format(a=value)"])
def test_a_format_that_is_too_long_is_not_made(expression: str) -> None:
    template = f"{{% set text = '%(a)s' * 99999 %}}{{% set value = 'x' * 5000 %}}{{{{ {expression} }}}}"
    tracemalloc.start()
    try:
        with pytest.raises(TemplateLimitError, match=LONG):
            render(template, {"messages": []})
        assert tracemalloc.get_traced_memory()[1] < 100_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("expression", ["split('\\n')", "splitlines()", "split()"])
def test_a_long_text_is_not_split_into_millions_of_pieces(expression: str) -> None:
    template = f"{{{{ messages[0].content.{expression} | length }}}}"
    message = given_message({"role": "user", "content": "a\n" * 2_000_000})
    with pytest.raises(TemplateLimitError, match=SLOW):
        render(template, {"messages": [message]}, marks=True)
    text = "a few words in each line\n" * 10_000
    lines = render(template, {"messages": [given_message({"role": "user", "content": text})]}, marks=True)
    assert int(lines) in (10_000, 10_001, 60_000)


def test_interrupt_ends_a_template() -> None:
    timer = threading.Timer(0.1, _thread.interrupt_main)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        _render_for_long()
    timer.join()


def test_renderings_of_several_threads_have_budgets_of_their_own() -> None:
    texts: list[str] = []
    template = "{% for i in range(9999) %}{% endfor %}done"

    def work() -> None:
        for _ in range(10):
            texts.append(render(template, {"messages": MESSAGES}))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == ["done"] * 40
