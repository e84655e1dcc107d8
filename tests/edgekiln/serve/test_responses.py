"""/v1/responses through OpenAI's own client."""

import json

from support.serving import HELLO, RunningServer

BODY = {"model": "tiny", "max_output_tokens": 12}


def test_an_answer_is_that_of_chat(client):
    response = client.responses.create(**BODY, input="Hello", instructions="Be brief.")
    messages = [{"role": "system", "content": "Be brief."}, *HELLO]
    chat = client.chat.completions.create(model="tiny", messages=messages, max_tokens=12)
    assert response.output_text == chat.choices[0].message.content
    assert response.usage.input_tokens == chat.usage.prompt_tokens
    assert response.usage.output_tokens == chat.usage.completion_tokens
    assert response.status == {"stop": "completed", "length": "incomplete"}[chat.choices[0].finish_reason]
    assert response.output[0].type == "message"
    assert response.output[0].status == response.status


def test_an_answer_that_is_cut(client):
    response = client.responses.create(**{**BODY, "max_output_tokens": 2}, input="Hello", temperature=0.0)
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert response.usage.output_tokens == 2


def test_items_of_earlier_responses(client, server: RunningServer):
    first = client.responses.create(**BODY, input="Hello")
    items = [{"role": "user", "content": "Hello"}, *[item.model_dump() for item in first.output]]
    second = client.responses.create(**BODY, input=[*items, {"role": "user", "content": "More"}])
    messages = [*HELLO, {"role": "assistant", "content": first.output_text}, {"role": "user", "content": "More"}]
    chat = client.chat.completions.create(model="tiny", messages=messages, max_tokens=12)
    assert second.output_text == chat.choices[0].message.content


def test_the_events_of_a_stream(client):
    whole = client.responses.create(**BODY, input="Hello")
    events = list(client.responses.create(**BODY, input="Hello", stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        f"response.{whole.status}",
    ]
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == events[-4].text == events[-1].response.output_text == whole.output_text
    assert {event.item_id for event in events if hasattr(event, "item_id")} == {events[-1].response.output[0].id}
    assert events[0].response.usage is None
    assert events[-1].response.usage.output_tokens == whole.usage.output_tokens


def test_a_schema(client):
    schema = {"type": "object", "properties": {"a": {"enum": [1]}}, "required": ["a"], "additionalProperties": False}
    form = {"type": "json_schema", "name": "s", "schema": schema, "strict": True}
    response = client.responses.create(model="tiny", input="Hello", text={"format": form}, max_output_tokens=200)
    assert json.loads(response.output_text) == {"a": 1}
    assert response.text.format.type == "json_schema"
