// What the library has on this processor, as JSON for `edgekiln doctor` and libedgekiln.
#pragma once

#include <string>

#include "ort_ops/op_table.h"

namespace edgekiln::ort {

// {"supported": names of instruction sets, fastest first, "ops": [{"domain", "op", "kernels", "registered"}]}.
// "kernels" are fields of KernelTable; an op that has a row for each type of KV cache is there twice. `table` is null
// where ONNX Runtime runs all ops.
inline std::string description(const KernelTable* table) {
  std::string json = R"({"supported": [)";
  const auto list = [&json, separator = ""](const char* text) mutable {
    json.append(separator).append("\"").append(text).append("\"");
    separator = ", ";
  };
  for (auto add = list; const KernelTable& supported : supported_kernels()) add(supported.instruction_set);
  json += "], \"ops\": [";
  const char* separator = "";
  for (const OpRow& row : op_table<false>()) {
    json.append(separator).append(R"({"domain": ")").append(*row.domain ? row.domain : "ai.onnx");
    json.append(R"(", "op": ")").append(row.name()).append(R"(", "kernels": [)");
    auto add = list;
    for (const KernelField& field : row.optional)
      if (table && field.filled(*table)) add(field.name);
    for (const KernelField& field : row.kernels) add(field.name);
    json.append(R"(], "registered": )").append(table && row.registered_with(*table) ? "true}" : "false}");
    separator = ", ";
  }
  return json + "]}";
}

}  // namespace edgekiln::ort
