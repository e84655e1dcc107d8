"""Coroutines that read tool calls: they take the text after the beginning of calls, one character at a time.

A reader returns, or raises ValueError, at the first character that does not belong to calls. What it took since its
last `Calls.commit` is then content of the message.
"""

import json
from collections.abc import Generator
from typing import Protocol

from edgekiln.runtimes.text.tools.styles import MISTRAL, Style
from edgekiln.serve.tools.json_stream import JsonStream
from edgekiln.serve.tools.python_calls import NAME, call_of
from edgekiln.serve.tools.xml_calls import CALL, Schemas, call_of_tags

_SPACE = " \t\r\n"
# Keys of the arguments, by model.
_ARGUMENTS = ("arguments", "parameters")
_FUNCTION = "<function="

# The result of a part is the character after it, where that had to be read; else nothing.
Step = Generator[None, str, str]


class Calls(Protocol):
    """Takes what a reader finds."""

    def begin(self, name: str) -> None:
        """Begin a call."""

    def arguments(self, text: str) -> None:
        """Append to the arguments of the last call."""

    def commit(self) -> None:
        """All that was read is in calls."""


def reader_of(style: Style, opened: str, calls: Calls, schemas: Schemas) -> Step:
    """A reader for the text after `opened`, one of `style.opens`, or nothing where a call begins without."""
    if style.body == "python":
        body = _python_body(calls)
    elif style.body == "xml":
        body = _xml_body(opened.removeprefix(style.opens[0]), calls, schemas)
    else:
        body = _json_body(style, calls, bare=not opened)
    return _block(body, calls, style.close if opened else "")


def _block(body: Step, calls: Calls, close: str) -> Step:
    """Calls and the text after them."""
    character = yield from body
    if not close:
        return character
    character = character or (yield from _after_space())
    for expected in close[:-1]:
        if character != expected:
            return character
        character = yield
    if character == close[-1]:
        calls.commit()
    return ""


def _after_space() -> Step:
    """The first character that is no white space."""
    while (character := (yield)) in _SPACE:
        pass
    return character


def _json_body(style: Style, calls: Calls, bare: bool) -> Step:
    """An object, several of them, a list, or the form of Mistral."""
    character = yield from _after_space()
    if character == "[":
        yield from _list(calls)
        return ""
    if character != "{" and style.opens == MISTRAL.opens:
        yield from _named(character, calls)
        return ""
    while True:
        yield from _object(character, calls, demanded=bare)
        character = yield from _after_space()
        if character in ",;":
            character = yield from _after_space()
        if character != "{":
            return character


def _list(calls: Calls, character: str = "") -> Step:
    """Objects after a bracket, or after a bracket and `character`; and the bracket after them."""
    while True:
        yield from _object(character or (yield from _after_space()), calls)
        character = yield from _after_space()
        if character == "]":
            calls.commit()
            return ""
        if character != ",":
            raise ValueError("a list does not go on")
        character = ""


def _object(character: str, calls: Calls, demanded: bool = False) -> Step:
    """A call as an object of JSON that begins with `character`; with `demanded` its arguments must be there."""
    if character != "{":
        raise ValueError("a call is no object")
    stream, call, text, inside = JsonStream(), _Call(calls), "", False
    while not stream.ended:
        begins = stream.depth == 1 and stream.between and character not in _SPACE
        is_arguments = begins and stream.expected == "value" and call.key in _ARGUMENTS
        stream.push(character)
        text = character if begins else text + character
        if inside or (is_arguments and character == "{"):
            if not inside:
                call.begin_arguments()
            inside = stream.depth > 1
            call.append(character)
        elif is_arguments and character not in '"n':  # null is for none
            raise ValueError("the arguments are no object")
        elif character == '"' and not begins and stream.depth == 1 and stream.between:
            call.add(json.loads(text), is_key=stream.expected == "colon")
        if not stream.ended:
            character = yield
    call.end(demanded)
    return ""


class _Call:
    """A call as its object is read. Arguments before its name are held back."""

    def __init__(self, calls: Calls) -> None:
        self.key = ""
        self._calls = calls
        self._name = self._held = ""
        self._found = False  # the arguments

    def add(self, text: str, is_key: bool) -> None:
        """Add a key, or the text that is its value."""
        if is_key:
            self.key = text
        elif self.key == "name" and not self._name:
            self._name = text
            if self._found:
                self._calls.begin(text)
                self.append(self._held)
        elif self.key in _ARGUMENTS:
            text = _object_text(text)
            self.begin_arguments()
            self.append(text)

    def begin_arguments(self) -> None:
        """The arguments begin."""
        if self._found:
            raise ValueError("a call has arguments twice")
        self._found = True
        if self._name:
            self._calls.begin(self._name)

    def append(self, text: str) -> None:
        """Append to the arguments."""
        if self._name:
            self._calls.arguments(text)
            self._calls.commit()
        else:
            self._held += text

    def end(self, demanded: bool) -> None:
        """The object has ended."""
        if not self._name or (demanded and not self._found):
            raise ValueError("a call has no name or no arguments")
        if not self._found:
            self.begin_arguments()
            self.append("{}")
        self._calls.commit()


def _object_text(value: str) -> str:
    """`value`, if it is the JSON text of an object: some models write arguments as text."""
    if not isinstance(json.loads(value), dict):
        raise ValueError("the arguments are no object")
    return value


def _named(character: str, calls: Calls) -> Step:
    """`name[ARGS]{...}`, perhaps with an id after `[CALL_ID]`."""
    name = ""
    while character not in "[{":
        name += character
        character = yield
    if not NAME.fullmatch(name.strip()):
        raise ValueError("a call has no name")
    while character != "{":
        tag = ""
        while not tag.endswith("]"):
            tag += yield
        if tag not in ("ARGS]", "CALL_ID]"):
            raise ValueError("a call has no arguments")
        character = yield from _after_space()
        while tag == "CALL_ID]" and character != "[":
            character = yield
        if tag == "ARGS]" and character != "{":
            raise ValueError("the arguments are no object")
    stream = JsonStream()
    calls.begin(name.strip())
    while True:
        stream.push(character)
        calls.arguments(character)
        calls.commit()
        if stream.ended:
            return ""
        character = yield


def _python_body(calls: Calls) -> Step:
    """Calls in brackets, separated by commas, or one in each line; a list of JSON also counts."""
    character = yield from _after_space()
    bracket = character == "["
    if bracket:
        character = yield from _after_space()
        if character == "{":
            yield from _list(calls, character)
            return ""
    while True:
        name, arguments = call_of((yield from _call_text(character)))
        calls.begin(name)
        calls.arguments(arguments)
        calls.commit()
        character = yield from _after_space()
        if bracket and character == "]":
            calls.commit()
            return ""
        if character in ",;":
            character = yield from _after_space()
        elif bracket or not _begins_name(character):
            return character


def _begins_name(character: str) -> bool:
    return character.isalpha() or character == "_"


def _call_text(character: str) -> Step:
    """The text up to the parenthesis that closes the first one."""
    if not _begins_name(character):
        raise ValueError("a call has no name")
    text, depth, quote = "", 0, ""
    while True:
        text += character
        if quote:
            if character == "\\":
                text += yield
            elif character == quote:
                quote = ""
        elif character in "\"'":
            quote = character
        elif character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
            if depth <= 0:
                return text
        character = yield


def _xml_body(text: str, calls: Calls, schemas: Schemas) -> Step:
    """The tags of a call after `text`."""
    begun = False
    while True:
        text += yield
        if not begun:
            start = text.lstrip()
            if not (_FUNCTION.startswith(start) or start.startswith(_FUNCTION)):
                raise ValueError("there is no function")
            begun = len(start) >= len(_FUNCTION)
        if text.endswith("</function>") and (match := CALL.fullmatch(text)):
            break
    name, arguments = call_of_tags(match, schemas)
    calls.begin(name)
    calls.arguments(arguments)
    calls.commit()
    return ""
