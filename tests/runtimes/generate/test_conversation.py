"""Conversations with the tiny engine."""

import numpy as np
import pytest

from edgekiln import runtimes
from edgekiln.engine.manifest import read_manifest
from edgekiln.errors import RequestError
from edgekiln.runtimes.generate.conversation import Conversation
from edgekiln.runtimes.generate.generate import generate
from edgekiln.runtimes.generate.options import GenerateOptions
from edgekiln.runtimes.text.tokenizer import Tokenizer

OPTIONS = GenerateOptions(max_tokens=8, ignore_eos=True)


class Counting:
    """Wraps a runtime and records the number of tokens of each prefill."""

    def __init__(self, runtime) -> None:
        self._runtime = runtime
        self.prefilled: list[int] = []

    def __getattr__(self, name):
        return getattr(self._runtime, name)

    def prefill(self, cache, sequence, tokens):
        self.prefilled.append(len(tokens))
        return self._runtime.prefill(cache, sequence, tokens)


@pytest.fixture
def runtime(engine):
    return Counting(runtimes.open(engine, threads=1, verify=False))


@pytest.fixture
def tokenizer(engine):
    return Tokenizer.from_engine(engine, read_manifest(engine))


def say(tokens) -> str:
    return "".join(token.text for token in tokens)


def test_a_turn_answers_the_whole_conversation(runtime, tokenizer):
    conversation = Conversation(runtime, tokenizer, system="Be brief.")
    for question in ("Hello?", "And then?", "Why?"):
        prompt = tokenizer.encode_chat([*conversation.messages, {"role": "user", "content": question}])
        expected = [token.id for token in generate(runtime, tokenizer, [prompt], OPTIONS)]
        assert [token.id for token in conversation.ask(question, OPTIONS)] == expected
    assert [message["role"] for message in conversation.messages] == ["system", *["user", "assistant"] * 3]


def test_earlier_turns_are_not_prefilled_again(runtime, tokenizer):
    conversation = Conversation(runtime, tokenizer)
    say(conversation.ask("h" * 200, OPTIONS))
    say(conversation.ask("why", OPTIONS))
    # At most the first answer, the second message and the template's markers are new in the second turn.
    assert runtime.prefilled[0] > 200
    assert runtime.prefilled[1] < 120


def test_the_text_of_a_closed_answer_is_kept(runtime, tokenizer):
    conversation = Conversation(runtime, tokenizer)
    whole = list(conversation.ask("Hello?", OPTIONS))
    conversation.messages.clear()
    stream = conversation.ask("Hello?", OPTIONS)
    partial = say(next(stream) for _ in range(4))
    stream.close()
    assert partial == say(whole[:4])
    assert conversation.messages[1]["content"] == partial


def test_a_turn_without_text_leaves_the_messages_unchanged(runtime, tokenizer, monkeypatch):
    conversation = Conversation(runtime, tokenizer)

    def interrupted(*_: object) -> np.ndarray:
        raise KeyboardInterrupt

    monkeypatch.setattr(runtime, "prefill", interrupted)
    with pytest.raises(KeyboardInterrupt):
        say(conversation.ask("Hello?", OPTIONS))
    assert conversation.messages == []


def test_a_conversation_too_long_for_the_engine(runtime, tokenizer):
    conversation = Conversation(runtime, tokenizer)
    say(conversation.ask("Hello?", OPTIONS))
    with pytest.raises(
        RequestError,
        match=r"prompt has \d+ tokens, the engine holds 600: shorten it or build the engine with a larger --max-length",
    ):
        conversation.ask("x" * 600, OPTIONS)
    assert len(conversation.messages) == 2
    assert say(conversation.ask("And now?", OPTIONS))


def test_a_saved_conversation_goes_on_where_it_was(engine, runtime, tokenizer, tmp_path):
    conversation = Conversation(runtime, tokenizer, system="Be brief.")
    say(conversation.ask("h" * 150, OPTIONS))
    conversation.save(tmp_path / "chat")
    expected = say(conversation.ask("And then?", OPTIONS))
    messages = conversation.messages

    again = Counting(runtimes.open(engine, threads=1, verify=False))
    restored = Conversation(again, tokenizer)
    restored.restore(tmp_path / "chat")
    assert say(restored.ask("And then?", OPTIONS)) == expected
    assert restored.messages == messages
    assert again.prefilled[0] < 80
    # And in the conversation that was saved, which has gone on since.
    conversation.restore(tmp_path / "chat")
    assert say(conversation.ask("And then?", OPTIONS)) == expected


def test_a_conversation_of_other_kernels_is_refused(engine, runtime, tokenizer, tmp_path, monkeypatch):
    conversation = Conversation(runtime, tokenizer)
    say(conversation.ask("Hello?", OPTIONS))
    conversation.save(tmp_path / "chat")
    other = runtimes.open(engine, threads=1, verify=False)
    monkeypatch.setattr(type(other), "kernels", "other")
    restored = Conversation(other, tokenizer)
    with pytest.raises(RequestError, match="was saved with another engine or other kernels"):
        restored.restore(tmp_path / "chat")
    assert not restored.messages
    stream = conversation.ask("Hello?", OPTIONS)
    next(stream)
    for method in (conversation.save, conversation.restore):
        with pytest.raises(RequestError, match="generating another answer"):
            method(tmp_path / "chat")
