// ONNX Runtime on the CPU: the adapter of target `ort-cpu`.
#pragma once

#include <filesystem>
#include <memory>

#include "engine/manifest.h"
#include "runtime/base.h"
#include "runtime/registry.h"
#include "util/result.h"

namespace edgekiln {

// Load the `generate` graph of a checked engine.
//
// An error is of Code::kEngine: ONNX Runtime refuses the graph, or its cache layout is not for this adapter.
Result<std::unique_ptr<Runtime>> open_ort_cpu(const std::filesystem::path& directory, const Manifest& manifest,
                                              const RuntimeOptions& options);

}  // namespace edgekiln
