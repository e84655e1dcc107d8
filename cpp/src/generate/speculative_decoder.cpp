#include "generate/speculative_decoder.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace edgekiln {

namespace {

using StepTimer = std::chrono::steady_clock;

}  // namespace

SpeculativeDecoder::SpeculativeDecoder(const Runtime& runtime, Cache& cache, Ids prompt, bool speculate)
    : runtime_(runtime), cache_(cache), speculation_(runtime.max_verify_tokens() - 1) {
  if (speculate && runtime.max_verify_tokens() > 1) lookup_.emplace(prompt);
}

Result<Logits> SpeculativeDecoder::step(std::int64_t token, std::int64_t left, const std::stop_token& cancel) {
  if (!lookup_) return runtime_.append(cache_, Ids(&token, 1), cancel);
  lookup_->append(token);
  if (given_ < verified_.size() && verified_[given_] == token) {
    ++accepted_;
  } else {
    if (!verified_.empty()) speculation_.observe(verified_.size() - 1, given_ - 1, seconds_);
    forget_rest();
    if (Result<void> ran = run(token, left, cancel); !ran) return ran.error();
  }
  const std::size_t size = logits_.size() / verified_.size();
  return logits_.subspan(given_++ * size, size);
}

Result<void> SpeculativeDecoder::run(std::int64_t token, std::int64_t left, const std::stop_token& cancel) {
  const auto most = static_cast<std::size_t>(std::max<std::int64_t>(0, left - 1));
  const Ids draft = lookup_->draft(std::min(most, speculation_.draft_length()));
  std::vector<std::int64_t> tokens{token};
  tokens.insert(tokens.end(), draft.begin(), draft.end());
  const StepTimer::time_point start = StepTimer::now();
  const Result<Logits> logits = runtime_.verify(cache_, tokens, cancel);
  if (!logits) return logits.error();
  seconds_ = std::chrono::duration<double>(StepTimer::now() - start).count();
  drafted_ += static_cast<std::int64_t>(draft.size());
  logits_ = logits.value();
  verified_ = std::move(tokens);
  return {};
}

void SpeculativeDecoder::forget_rest() {
  cache_.rewind(cache_.length() - static_cast<std::int64_t>(verified_.size() - given_));
  verified_.clear();
  given_ = 0;
}

}  // namespace edgekiln
