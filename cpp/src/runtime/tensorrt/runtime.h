// TensorRT on an NVIDIA GPU: the adapter of target `trt`.
#pragma once

#include <filesystem>
#include <memory>

#include "engine/manifest.h"
#include "runtime/base.h"
#include "runtime/registry.h"
#include "util/result.h"

namespace edgekiln {

// Load the plan of a checked engine, whose cache is of the growing kind. Its runs are one at a time.
//
// An error is of Code::kEngine if the plan is not for this version or this GPU, or not what engine.json says, of
// Code::kUnsupported if a library is missing or the adapter does not run such a plan, of Code::kRuntime without a GPU.
Result<std::unique_ptr<Runtime>> open_tensorrt(const std::filesystem::path& directory, const Manifest& manifest,
                                               const RuntimeOptions& options);

}  // namespace edgekiln
