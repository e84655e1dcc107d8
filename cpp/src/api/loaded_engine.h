// A loaded engine: the object behind edgekiln_engine.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <set>
#include <string>

#include "api/text_model.h"
#include "engine/manifest.h"
#include "runtime/registry.h"
#include "util/result.h"

namespace edgekiln {

// Immutable and therefore thread-safe. Every session holds a shared pointer to it.
struct LoadedEngine {
  Manifest manifest;
  std::set<std::int64_t> eos;
  std::unique_ptr<Runtime> runtime;
  std::unique_ptr<TextModel> text;  // null if opened without
  std::string kernels;

  // Load an engine directory. `verify`: check the SHA-256 of its files, that of large ones while they are loaded.
  // `with_text`: load the tokenizer.
  static Result<std::shared_ptr<const LoadedEngine>> open(const std::filesystem::path& directory,
                                                          const RuntimeOptions& options, bool verify, bool with_text);

  // The text model; an error of Code::kRequest if the engine was opened without.
  Result<const TextModel*> need_text() const;
};

}  // namespace edgekiln
