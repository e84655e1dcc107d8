#include "engine/graph_io.h"

#include <algorithm>
#include <string_view>
#include <utility>
#include <vector>

#include "util/json_reader.h"
#include "util/str_cat.h"

namespace edgekiln {

namespace {

constexpr std::string_view kLayer = "{layer}";
constexpr std::string_view kState = "{state}";
constexpr std::string_view kWindow = "{window}";

using Name = std::pair<std::string_view, std::string>;  // field of `io`, name of the graph's input or output

// What the name of `field` must contain; empty if any name will do.
std::string_view placeholder_of(std::string_view field) {
  if (field == "window_start") return kWindow;
  if (field.ends_with("_state")) return kState;
  return field.starts_with("past_") || field.starts_with("present_") ? kLayer : std::string_view();
}

void check_names(const std::vector<Name>& names) {
  for (const auto& [field, name] : names) {
    if (name.empty()) damaged(str_cat("io: ", field, " is empty"));
    if (name.find('\0') != std::string::npos) damaged(str_cat("io: ", field, " has a zero byte"));
    if (const std::string_view part = placeholder_of(field); name.find(part) == std::string::npos)
      damaged(str_cat("io: ", field, " has no ", part));
  }
  for (auto name = names.begin(); name != names.end(); ++name) {
    const auto first =
        std::find_if(names.begin(), name, [&](const Name& other) { return other.second == name->second; });
    if (first != name) damaged(str_cat("io: ", name->first, " has the name of ", first->first));
  }
}

std::string filled(std::string name, std::string_view placeholder, const std::string& value) {
  if (const auto at = name.find(placeholder); at != std::string::npos) name.replace(at, placeholder.size(), value);
  return name;
}

}  // namespace

GraphIO read_graph_io(JsonObject object) {
  GraphIO io;
  std::vector<Name> names;
  for (auto [key, field] : {std::pair{"input_ids", &io.input_ids},
                            {"position_ids", &io.position_ids},
                            {"logits", &io.logits},
                            {"past_key", &io.past_key},
                            {"past_value", &io.past_value},
                            {"present_key", &io.present_key},
                            {"present_value", &io.present_value},
                            {"past_state", &io.past_state},
                            {"present_state", &io.present_state}}) {
    *field = object.string_or(key, *field);
    names.emplace_back(key, *field);
  }
  for (auto [key, field] : {std::pair{"total_length", &io.total_length},
                            {"logits_to_keep", &io.logits_to_keep},
                            {"sequence_length", &io.sequence_length},
                            {"window_start", &io.window_start}}) {
    *field = object.optional_string(key);
    if (*field) names.emplace_back(key, **field);
  }
  object.refuse_unknown_keys();
  check_names(names);
  return io;
}

std::string in_layer(std::string name, std::size_t layer) { return filled(std::move(name), kLayer, str_cat(layer)); }

std::string of_state(std::string name, std::size_t state) { return filled(std::move(name), kState, str_cat(state)); }

std::string of_window(std::string name, std::int64_t window) {
  return filled(std::move(name), kWindow, str_cat(window));
}

}  // namespace edgekiln
