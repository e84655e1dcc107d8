"""Mutated chat templates: real ones with words changed, and hostile expressions and statements put between them."""

import re
from random import Random

from support.chat_templates import TEMPLATES, UNSUPPORTED
from support.mutations import mutate_bytes

_REAL = [template for template, *_ in TEMPLATES.values()] + list(UNSUPPORTED.values())
_WORD = re.compile(r"\{%-?|-?%\}|\{\{-?|-?\}\}|\{#|#\}|\s+|\w+|.", re.DOTALL)
_NUMBERS = (0, 1, -1, 3, 10, 1000, 10**5, 10**6, 10**9, 10**18, 2**63)
# `N` is replaced by one of `_NUMBERS`.
_EXPRESSIONS = (
    *("messages", "message", "bos_token", "nothing", "nothing.at.all", "messages[N]", "messages[0]", "none", "loop"),
    *("'x' * N", "'x' * 1000 * N", "['x' * 1000] * N", "(messages * N) | length", "'%Nd' % 1", "'%.Nf' % 1.0"),
    *("'{:N}'.format(1)", "'{:>N}'.format('x')", "'{0.__class__}'.format(messages)", "'{0[N]}'.format(messages)"),
    *("'x' | center(N)", "'x' | indent(N)", "'x'.ljust(N)", "'x'.zfill(N)", "'x\\n' | indent(1000) * N"),
    *("'x' | replace('', 'x' * 1000)", "'xy'.replace('x', 'y' * N)", "range(N) | list | length", "range(N) | sum"),
    *("range(N) | join", "'x'.join(range(N) | map('string'))", "10 ** N", "2 ** 2 ** N", "N // 0", "N % 0", "1 / 3"),
    *("messages | tojson(indent=N)", "messages | tojson", "messages | pprint", "range(N) | batch(2) | list | length"),
    *("''.__class__.__mro__", "messages.__class__", "messages.append(1)", "cycler.__init__.__globals__", "self"),
    *("lipsum(n=N)", "namespace(a=N).a", "dict(a=messages)", "joiner()", "strftime_now('%Nd')", "strftime_now(N)"),
    *("raise_exception('no')", "raise_exception(N)", "raise_exception('a\\nb' * 1000)", "messages | map('upper')"),
    *(
        "messages | sort(attribute='role')",
        "messages | groupby('role')",
        "message.content.split('')",
        "x()",
        "'\\ud800'",
    ),
    *(
        "messages | random",
        "'x' | wordwrap(N)",
        "'a b' | title | urlize",
        "N | round(N)",
        "N | filesizeformat",
        "- - N",
    ),
)
_STATEMENTS = (
    *("{{ E }}", "{{ E }}", "{{ E }}", "{{ E ~ E }}", "{% if E %}{{ E }}{% endif %}", "{% set messages = E %}", "{# E"),
    *("{% for a in E %}{{ a }}{% endfor %}", "{% for a in range(N) %}x{% endfor %}", "{% set a = E %}{{ a }}"),
    *("{% include 'a' %}", "{% import 'a' as b %}", "{% extends 'a' %}", "{% block a %}{{ E }}{% endblock %}"),
    *("{% macro a(n) %}{{ a(n) }}{% endmacro %}{{ a(1) }}", "{% macro a() %}{{ E }}{% endmacro %}{{ a() * N }}"),
    *("{% generation %}{{ E }}{% endgeneration %}", "{% filter center(N) %}{{ E }}{% endfilter %}", "{% break %}"),
    *("{% set a = namespace() %}{% set a.b = E %}{{ a.b }}", "{% call a() %}{% endcall %}", "{% endfor %}", "{{ E"),
    *("{% raw %}{{ E }}{% endraw %}", "{% do E %}", "{% autoescape true %}{{ E }}{% endautoescape %}", "\ud800", "\0"),
    *("{% for a in messages recursive %}{{ loop(messages) }}{% endfor %}", "{% with a = E %}{{ a }}{% endwith %}"),
)
# Each of these takes as long as a template may; so they are rare.
_ENDLESS = (
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% for a in range(99999) %}{% for b in range(99999) %}{{ 'x' }}{% endfor %}{% endfor %}",
    "{% macro a(n) %}{% if n %}{{ a(n - 1) }}{{ a(n - 1) }}{% endif %}{% endmacro %}{{ a(60) }}",
    "{% set ns = namespace(a='x') %}{% for i in range(99999) %}{% set ns.a = ns.a * 2 %}{% endfor %}{{ ns.a }}",
    "{{ '%s' % (10 ** 99999 ** 2) }}",
    "{{ '(' * 5000 }}{{ range(99999) | map('string') | sort | list | tojson * 99999 }}",
)
_DEEP = (
    "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
    "{{ " + "(" * 3000 + ")" * 3000 + " }}",
    "{{ " + "-" * 9999 + "1 }}",
)


def mutate(random: Random) -> str:
    """A template."""
    words = _WORD.findall(random.choice(_REAL))
    kind = random.random()
    if kind < 0.005:
        return random.choice(_ENDLESS)
    if kind < 0.015:
        return random.choice(_DEEP)
    if kind < 0.15:
        return mutate_bytes("".join(words).encode(), random).decode("utf-8", "surrogateescape")
    for _ in range(random.choice([1, 1, 2, 3])):
        at = random.randrange(len(words))
        match random.randrange(5):
            case 0:
                del words[at]
            case 1:
                words[at] = random.choice(words)
            case 2:
                words[at:at] = words[at : at + random.randrange(1, 30)]
            case _:
                words.insert(at, _statement(random))
    return "".join(words)


def _statement(random: Random) -> str:
    text = random.choice(_STATEMENTS)
    while "E" in text:
        text = text.replace("E", random.choice(_EXPRESSIONS), 1)
    while re.search(r"\bN\b|%N|:N|>N|\.N", text):
        text = re.sub(r"\bN\b|(?<=[%:>.])N", str(random.choice(_NUMBERS)), text, count=1)
    return text
