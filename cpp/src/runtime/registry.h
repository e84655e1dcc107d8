// From the target an engine was built for to the adapter that runs it.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "engine/manifest.h"
#include "runtime/base.h"
#include "util/result.h"

namespace edgekiln {

struct RuntimeOptions {
  int threads = 0;                // 0: the physical cores this process may use
  std::int64_t chunk = 0;         // tokens a prefill run takes at once; 0: what the adapter finds best
  bool native = true;             // use edgekiln's own kernels where they are built
  std::filesystem::path kernels;  // their library; without, the one beside this library
  std::string device;             // one of those that the target runs on; empty: its first
};

// Load a checked engine with the adapter of its target.
//
// An error is of Code::kUnsupported if no adapter is built in, of Code::kRequest if an option is out of range, of
// Code::kEngine if the adapter refuses the engine.
Result<std::unique_ptr<Runtime>> open_runtime(const std::filesystem::path& directory, const Manifest& manifest,
                                              RuntimeOptions options);

}  // namespace edgekiln
