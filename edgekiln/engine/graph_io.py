"""Names of the inputs and outputs of an engine's graphs: the field `io` of engine.json.

cpp/src/engine/graph_io.cpp makes the same checks in the same order.
"""

from typing import Self

from pydantic import Field, model_validator

from edgekiln.engine.schema import Schema, refusal


class GraphIO(Schema):
    """Names of the graph's inputs and outputs; those of the KV cache contain `{layer}`."""

    input_ids: str = "input_ids"
    position_ids: str = "position_ids"
    logits: str = "logits"
    past_key: str = "past.{layer}.key"
    past_value: str = "past.{layer}.value"
    present_key: str = "present.{layer}.key"
    present_value: str = "present.{layer}.value"
    total_length: str | None = Field(
        default=None,
        description="int32[1], longest sequence of the batch including the new tokens; None: no such input",
    )
    logits_to_keep: str | None = Field(
        default=None, description="int64[1] K > 0, `generate` gives logits of the last K positions; None: no such input"
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
            if field.startswith(("past", "present")) and "{layer}" not in name:
                raise refusal(f"{field} has no {{layer}}")
            if field == "window_start" and "{window}" not in name:
                raise refusal(f"{field} has no {{window}}")
        first: dict[str, str] = {}
        for field, name in names.items():
            if first.setdefault(name, field) != field:
                raise refusal(f"{field} has the name of {first[name]}")
        return self


def in_layer(name: str, layer: int) -> str:
    """The name of a layer's input or output of the KV cache: "past.3.key" of "past.{layer}.key" for layer 3."""
    return name.replace("{layer}", str(layer), 1)


def of_window(name: str, window: int) -> str:
    """The name of the input of a window: "window_start.512" of "window_start.{window}" for 512 tokens."""
    return name.replace("{window}", str(window), 1)
