// ONNX Runtime on the CPU: the adapter of target `ort-cpu`.
#pragma once

#include <filesystem>
#include <memory>

#include "engine/manifest.h"
#include "runtime/base.h"
#include "runtime/registry.h"
#include "util/result.h"

namespace edgekiln {

// Load the `generate` graph of a verified engine.
//
// Errors: Code::kEngine if ONNX Runtime refuses the graph or the KV cache is not shared-buffer, Code::kRequest if
// options.kernels_library is not a kernel library.
Result<std::unique_ptr<Runtime>> open_ort_cpu(const std::filesystem::path& directory, const Manifest& manifest,
                                              const RuntimeOptions& options);

}  // namespace edgekiln
