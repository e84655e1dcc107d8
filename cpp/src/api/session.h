// What stands behind the handles of the C interface.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <stop_token>
#include <string>
#include <vector>

#include "api/text_model.h"
#include "engine/manifest.h"
#include "generate/generate.h"
#include "runtime/registry.h"
#include "util/result.h"

namespace edgekiln {

// A loaded engine. It does not change once it is open, so any number of threads may use it.
struct LoadedEngine {
  Manifest manifest;
  std::set<std::int64_t> eos;
  std::unique_ptr<Runtime> runtime;
  std::unique_ptr<TextModel> text;  // null if opened without
  std::string kernels;

  static Result<std::shared_ptr<const LoadedEngine>> open(const std::filesystem::path& directory,
                                                          const RuntimeOptions& options, bool verify, bool with_text);

  // The tokenizer, or an error of Code::kRequest if opened without.
  Result<const TextModel*> need_text() const;
};

struct Summary {
  std::int64_t prompt_tokens = 0;
  std::int64_t cached_tokens = 0;
  std::int64_t generated_tokens = 0;
  double first_token_s = 0;
  double total_s = 0;
  Ending ending;
};

// One conversation: a cache, and a way to cancel.
class EngineSession {
 public:
  explicit EngineSession(std::shared_ptr<const LoadedEngine> engine);

  const LoadedEngine& engine() const { return *engine_; }

  // See `generate`. One thread at a time: an error of Code::kRequest if another is at it.
  Result<Summary> generate(Ids prompt, const GenerateOptions& options, const std::function<bool(const Token&)>& take);

  // An error of Code::kRequest while it generates.
  Result<void> reset();

  // From any thread.
  void cancel();

 private:
  class Busy;

  const std::shared_ptr<const LoadedEngine> engine_;
  const std::unique_ptr<Cache> cache_;
  std::atomic<bool> busy_ = false;
  std::mutex mutex_;  // of what follows
  std::stop_source stop_{std::nostopstate};
};

}  // namespace edgekiln
