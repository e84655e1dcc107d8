// The names of the inputs and outputs of an engine's graphs: the field `io` of engine.json.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

namespace edgekiln {

class JsonObject;

// Names of the graph's inputs and outputs. Those of keys and values contain `{layer}`, the number of the KV cache
// layer; those of states contain `{state}`.
struct GraphIO {
  std::string input_ids = "input_ids";
  std::string position_ids = "position_ids";
  std::string logits = "logits";
  std::string past_key = "past.{layer}.key";
  std::string past_value = "past.{layer}.value";
  std::string present_key = "present.{layer}.key";
  std::string present_value = "present.{layer}.value";
  std::string past_state = "past_state.{state}";
  std::string present_state = "present_state.{state}";
  std::optional<std::string> total_length;     // int32[1], the largest sequence length of the batch
  std::optional<std::string> logits_to_keep;   // int64[1], number of last positions that get logits
  std::optional<std::string> sequence_length;  // int64[B], lengths with all tokens of the prompt that a run is part of
  std::optional<std::string> window_start;     // int64[B], position of the first token in a window's buffers
};

// `name` with `{layer}` replaced by the number of a KV cache layer.
std::string in_layer(std::string name, std::size_t layer);

// `name` with `{state}` replaced by the number of a state.
std::string of_state(std::string name, std::size_t state);

// `name` with `{window}` replaced by the number of tokens of a window.
std::string of_window(std::string name, std::int64_t window);

// The value of `io`. Throws JsonError.
GraphIO read_graph_io(JsonObject object);

}  // namespace edgekiln
