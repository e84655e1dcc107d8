// A session: one conversation with an engine, and its cancellation.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <stop_token>
#include <vector>

#include "api/loaded_engine.h"
#include "generate/generate.h"
#include "runtime/base.h"
#include "util/result.h"

namespace edgekiln {

struct Summary {
  std::int64_t prompt_tokens = 0;
  std::int64_t cached_tokens = 0;
  std::int64_t generated_tokens = 0;
  double first_token_s = 0;
  double total_s = 0;
  Finish finish;
};

// A KV cache and the state of the generate call that uses it.
class EngineSession {
 public:
  explicit EngineSession(std::shared_ptr<const LoadedEngine> engine);

  const LoadedEngine& engine() const { return *engine_; }

  using OnToken = std::function<bool(const Token&)>;
  // Gives the token ids of a prompt.
  using Encode = std::function<Result<std::vector<std::int64_t>>(const EncodeLimits&)>;

  // See `edgekiln::generate`. An error of Code::kRequest if another thread is generating in this session. With an
  // `Encode`, `cancel` takes effect while it tokenizes the prompt, too.
  Result<Summary> generate(Ids prompt, const GenerateOptions& options, const OnToken& on_token);
  Result<Summary> generate(const Encode& encode, const GenerateOptions& options, const OnToken& on_token);

  // Drop all tokens. An error of Code::kRequest while the session generates.
  [[nodiscard]] Result<void> reset();

  // Cancel the current call of `generate`. Thread-safe.
  void cancel();

 private:
  class Busy;

  Result<Summary> run(const std::function<Result<Ids>(const EncodeLimits&)>& encode, const GenerateOptions& options,
                      const OnToken& on_token);

  // The detokenizer of an answer; null without a tokenizer.
  std::unique_ptr<TextStream> text_stream(const GenerateOptions& options) const;

  const std::shared_ptr<const LoadedEngine> engine_;
  const std::unique_ptr<KVCache> cache_;
  std::atomic<bool> busy_ = false;
  std::mutex mutex_;  // guards stop_
  std::stop_source stop_{std::nostopstate};
};

}  // namespace edgekiln
