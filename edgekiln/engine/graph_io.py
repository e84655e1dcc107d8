"""Names of the inputs and outputs of an engine's graphs: the field `io` of engine.json.

cpp/src/engine/graph_io.cpp makes the same checks in the same order.
"""

from typing import Self

from pydantic import Field, model_validator

from edgekiln.engine.schema import Schema, refusal

# Field -> what its name must contain.
_PLACEHOLDERS = {
    **dict.fromkeys(("past_key", "past_value", "present_key", "present_value"), "{layer}"),
    **dict.fromkeys(("past_state", "present_state"), "{state}"),
    "window_start": "{window}",
}


class GraphIO(Schema):
    """Names of the graph's inputs and outputs.

    Those of keys and values contain `{layer}`, the number of the KV cache layer; those of states contain `{state}`.
    """

    input_ids: str = "input_ids"
    position_ids: str = "position_ids"
    logits: str = "logits"
    past_key: str = "past.{layer}.key"
    past_value: str = "past.{layer}.value"
    present_key: str = "present.{layer}.key"
    present_value: str = "present.{layer}.value"
    past_state: str = "past_state.{state}"
    present_state: str = "present_state.{state}"
    total_length: str | None = Field(
        default=None,
        description="int32[1], longest sequence of the batch including the new tokens; None: no such input",
    )
    logits_to_keep: str | None = Field(
        default=None, description="int64[1] K > 0, `generate` gives logits of the last K positions; None: no such input"
    )
    sequence_length: str | None = Field(
        default=None,
        description="int64[B], length of each sequence with all tokens of the prompt that the run is part of; None: no "
        "such input",
    )
    window_start: str | None = Field(
        default=None,
        description="int64[B], position of the first token in the window buffers of layers with this window; contains "
        "`{window}`; None: no such inputs",
    )

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        names = {field: name for field, name in self if name is not None}
        for field, name in names.items():
            if not name:
                raise refusal(f"{field} is empty")
            if "\0" in name:
                raise refusal(f"{field} has a zero byte")
            if (part := _PLACEHOLDERS.get(field, "")) not in name:
                raise refusal(f"{field} has no {part}")
        first: dict[str, str] = {}
        for field, name in names.items():
            if first.setdefault(name, field) != field:
                raise refusal(f"{field} has the name of {first[name]}")
        return self


def in_layer(name: str, layer: int) -> str:
    """The name of an input or output of a KV cache layer: "past.3.key" of "past.{layer}.key" for layer 3."""
    return name.replace("{layer}", str(layer), 1)


def of_state(name: str, state: int) -> str:
    """The name of a state's input or output: "past_state.3" of "past_state.{state}" for state 3."""
    return name.replace("{state}", str(state), 1)


def of_window(name: str, window: int) -> str:
    """The name of the input of a window: "window_start.512" of "window_start.{window}" for 512 tokens."""
    return name.replace("{window}", str(window), 1)
