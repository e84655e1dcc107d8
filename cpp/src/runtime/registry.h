// Maps an engine's target to the adapter that runs it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "engine/manifest.h"
#include "runtime/base.h"
#include "util/result.h"

namespace edgekiln {

// The values equal those of `edgekiln_kernels_choice` in the C API.
enum class KernelsChoice { kEdgekiln = 0, kOnnxRuntime = 1 };

struct RuntimeOptions {
  int threads = 0;                                   // compute threads; 0: default_threads()
  std::int64_t chunk = 0;                            // tokens of a prefill run; 0: the adapter's default
  KernelsChoice kernels = KernelsChoice::kEdgekiln;  // kEdgekiln falls back to ONNX Runtime's
  std::filesystem::path kernels_library;             // empty: libedgekiln_ops.so next to this library
  std::string device;                                // one of the target's devices; empty: its first
  PackCacheUse pack_cache = PackCacheUse::kOff;
};

// Load a verified engine with the adapter of its target.
//
// Errors: Code::kUnsupported if this library has no adapter for the target, Code::kRequest if an option is out of
// range, Code::kEngine if the adapter refuses the engine.
Result<std::unique_ptr<Runtime>> open_runtime(const std::filesystem::path& directory, const Manifest& manifest,
                                              RuntimeOptions options);

}  // namespace edgekiln
