// TensorRT on an NVIDIA GPU: the adapter of target `trt`.
#pragma once

#include <filesystem>
#include <memory>

#include "engine/manifest.h"
#include "runtime/base.h"
#include "runtime/registry.h"
#include "util/result.h"

namespace edgekiln {

// Load the plan of a verified engine with a growing KV cache. A mutex serializes the runs of all caches.
//
// Errors: Code::kEngine if the plan was built for another TensorRT version or GPU or does not match engine.json,
// Code::kUnsupported if a library is missing or check_layout refuses the plan, Code::kRuntime without a GPU.
Result<std::unique_ptr<Runtime>> open_tensorrt(const std::filesystem::path& directory, const Manifest& manifest,
                                               const RuntimeOptions& options);

}  // namespace edgekiln
