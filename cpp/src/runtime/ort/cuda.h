// ONNX Runtime on an NVIDIA GPU: the adapter of target `ort-cuda`.
#pragma once

#include <filesystem>
#include <memory>

#include "engine/manifest.h"
#include "runtime/base.h"
#include "runtime/registry.h"
#include "util/result.h"

namespace edgekiln {

// Load the `generate` and `grow` graphs of a verified engine on device `cuda`, or on `cpu` to test the same graphs and
// buffers without a GPU. A mutex serializes the runs of all caches.
//
// Errors: Code::kEngine if ONNX Runtime refuses a graph or the KV cache is not shared-buffer float16,
// Code::kUnsupported if ONNX Runtime was built without CUDA, Code::kRuntime if CUDA cannot be used on this machine.
Result<std::unique_ptr<Runtime>> open_ort_cuda(const std::filesystem::path& directory, const Manifest& manifest,
                                               const RuntimeOptions& options);

}  // namespace edgekiln
