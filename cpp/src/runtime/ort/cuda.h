// ONNX Runtime on an NVIDIA GPU: the adapter of target `ort-cuda`.
#pragma once

#include <filesystem>
#include <memory>

#include "engine/manifest.h"
#include "runtime/base.h"
#include "runtime/registry.h"
#include "util/result.h"

namespace edgekiln {

// Load the `generate` graph of a checked engine on the device `cuda`, or on `cpu` to run the same graph and the same
// buffers without a GPU. Its runs are one at a time.
//
// An error is of Code::kEngine if ONNX Runtime refuses the graph or the cache's layout is not for this adapter, of
// Code::kUnsupported if ONNX Runtime was built without CUDA, of Code::kRuntime if there is no CUDA that it can use.
Result<std::unique_ptr<Runtime>> open_ort_cuda(const std::filesystem::path& directory, const Manifest& manifest,
                                               const RuntimeOptions& options);

}  // namespace edgekiln
