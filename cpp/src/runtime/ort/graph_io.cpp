#include "runtime/ort/graph_io.h"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "util/json_reader.h"

namespace edgekiln {

namespace {

struct Port {
  std::string name;
  ONNXTensorElementDataType type;
  std::vector<std::int64_t> shape;  // -1: any size
};

using Ports = std::vector<Port>;

ONNXTensorElementDataType type_of(const std::string& dtype) {
  if (dtype == "float32") return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  if (dtype == "float16") return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
  if (dtype == "bfloat16") return ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16;
  return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8;
}

Port port_of(std::string name, const Ort::TypeInfo& info) {
  if (info.GetONNXType() != ONNX_TYPE_TENSOR) return {std::move(name), ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED, {}};
  const auto tensor = info.GetTensorTypeAndShapeInfo();
  return {std::move(name), tensor.GetElementType(), tensor.GetShape()};
}

Ports inputs_of(const Ort::Session& session) {
  const Ort::AllocatorWithDefaultOptions allocator;
  Ports ports;
  for (std::size_t i = 0; i < session.GetInputCount(); ++i)
    ports.push_back(port_of(session.GetInputNameAllocated(i, allocator).get(), session.GetInputTypeInfo(i)));
  return ports;
}

Ports outputs_of(const Ort::Session& session) {
  const Ort::AllocatorWithDefaultOptions allocator;
  Ports ports;
  for (std::size_t i = 0; i < session.GetOutputCount(); ++i)
    ports.push_back(port_of(session.GetOutputNameAllocated(i, allocator).get(), session.GetOutputTypeInfo(i)));
  return ports;
}

const Port* find(const Ports& ports, const std::string& name) {
  const auto found = std::find_if(ports.begin(), ports.end(), [&](const Port& port) { return port.name == name; });
  return found == ports.end() ? nullptr : &*found;
}

// Whether `shape` is a batch axis and `sizes`.
bool is_batch_of(const std::vector<std::int64_t>& shape, const std::vector<std::int64_t>& sizes) {
  return !shape.empty() && std::equal(shape.begin() + 1, shape.end(), sizes.begin(), sizes.end());
}

std::string text_of(const std::vector<std::int64_t>& shape) {
  std::string text;
  for (const std::int64_t size : shape) text += str_cat(text.empty() ? "" : ", ", size);
  return str_cat("[", text, "]");
}

// What does not fit, in the order of runtimes/ort/graph_io.py.
std::optional<std::string> mismatch(const Ports& inputs, const Ports& outputs, const std::string& file,
                                    const Manifest& manifest) {
  const GraphIO& io = manifest.io;
  const Architecture& sizes = manifest.architecture;
  std::set<std::string> known;
  for (const auto& [field, name] : {std::pair{"input_ids", std::optional(io.input_ids)},
                                    {"position_ids", std::optional(io.position_ids)},
                                    {"total_length", io.total_length},
                                    {"logits_to_keep", io.logits_to_keep},
                                    {"sequence_length", io.sequence_length}}) {
    if (!name) continue;
    known.insert(*name);
    if (!find(inputs, *name)) return str_cat("io.", field, ": ", file, " has no input ", shown(*name));
  }
  const std::vector<std::int64_t>& windows = manifest.kv_cache.windows;
  for (const std::int64_t window : std::set(windows.begin(), windows.end())) {
    if (!window) continue;
    const std::string name = of_window(io.window_start.value_or(""), window);
    known.insert(name);
    if (!find(inputs, name)) return str_cat("io.window_start: ", file, " has no input ", shown(name));
  }
  const Port* logits = find(outputs, io.logits);
  if (!logits) return str_cat("io.logits: ", file, " has no output ", shown(io.logits));
  if (logits->shape.empty() || logits->shape.back() != sizes.vocab_size)
    return str_cat("architecture.vocab_size: ", shown(io.logits), " of ", file, " is not of ", sizes.vocab_size,
                   " tokens");
  for (std::size_t layer = 0; layer < sizes.kv_heads.size(); ++layer) {
    const std::int64_t heads = sizes.kv_heads[layer];
    const std::int64_t size = sizes.head_dims[layer];
    for (const auto& [field, pattern, ports, kind] : {std::tuple{"past_key", &io.past_key, &inputs, "input"},
                                                      {"past_value", &io.past_value, &inputs, "input"},
                                                      {"present_key", &io.present_key, &outputs, "output"},
                                                      {"present_value", &io.present_value, &outputs, "output"}}) {
      const std::string name = in_layer(*pattern, layer);
      known.insert(name);
      const Port* const port = find(*ports, name);
      if (!port) return str_cat("io.", field, ": ", file, " has no ", kind, " ", shown(name));
      if (port->type != type_of(manifest.kv_cache.dtype))
        return str_cat("kv_cache.dtype: ", shown(name), " of ", file, " is not ", manifest.kv_cache.dtype);
      if (port->shape.size() != 4 || port->shape[1] != heads || port->shape[3] != size)
        return str_cat("architecture: ", shown(name), " of ", file, " is not of ", heads, " heads of size ", size);
    }
  }
  const std::vector<StateSpec>& states = manifest.kv_cache.states;
  for (std::size_t state = 0; state < states.size(); ++state)
    for (const auto& [field, pattern, ports, kind] : {std::tuple{"past_state", &io.past_state, &inputs, "input"},
                                                      {"present_state", &io.present_state, &outputs, "output"}}) {
      const std::string name = of_state(*pattern, state);
      known.insert(name);
      const Port* const port = find(*ports, name);
      if (!port) return str_cat("io.", field, ": ", file, " has no ", kind, " ", shown(name));
      if (port->type != type_of(states[state].dtype))
        return str_cat("kv_cache.states.", state, ".dtype: ", shown(name), " of ", file, " is not ",
                       states[state].dtype);
      if (!is_batch_of(port->shape, states[state].shape))
        return str_cat("kv_cache.states.", state, ".shape: ", shown(name), " of ", file, " is not of shape ",
                       text_of(states[state].shape));
    }
  for (const Port& input : inputs)
    if (!known.contains(input.name))
      return str_cat("io: ", file, " has the input ", shown(input.name), ", which no field names");
  return std::nullopt;
}

}  // namespace

Result<void> check_graph(const Ort::Session& session, const std::filesystem::path& path, const Manifest& manifest) {
  try {
    const auto reason = mismatch(inputs_of(session), outputs_of(session), path.filename().string(), manifest);
    if (reason) return damaged_file((path.parent_path() / "engine.json").string(), *reason);
    return {};
  } catch (const Ort::Exception& error) {
    return fail(Code::kEngine, ort_name(), " cannot load ", path.string(), ": ", first_line(error.what()));
  }
}

}  // namespace edgekiln
