#include "generate/speculative_decoder.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace edgekiln {

namespace {

using Clock = std::chrono::steady_clock;

}  // namespace

SpeculativeDecoder::SpeculativeDecoder(const Runtime& runtime, KVCache& cache, Ids prompt, bool speculate)
    : runtime_(runtime), cache_(cache), speculation_(runtime.max_verify_tokens() - 1) {
  if (speculate && runtime.max_verify_tokens() > 1) lookup_.emplace(prompt);
}

Result<Logits> SpeculativeDecoder::step(std::int64_t token, std::int64_t left, const std::stop_token& cancel) {
  if (!lookup_) return runtime_.append(cache_, Ids(&token, 1), cancel);
  lookup_->append(token);
  if (used_ < verified_.size() && verified_[used_] == token) {
    ++stats_.accepted;
  } else {
    if (!verified_.empty()) speculation_.observe(verified_.size() - 1, used_ - 1, seconds_);
    drop_unused();
    if (Result<void> ran = run(token, left, cancel); !ran) return std::unexpected(ran.error());
  }
  const std::size_t size = logits_.size() / verified_.size();
  return logits_.subspan(used_++ * size, size);
}

std::size_t SpeculativeDecoder::room() const {
  const std::optional<std::int64_t>& limit = runtime_.properties().recompute_beyond;
  if (!limit || cache_.length() > *limit) return runtime_.max_verify_tokens() - 1;
  return static_cast<std::size_t>(std::max<std::int64_t>(0, *limit - cache_.length() - 1));
}

Result<void> SpeculativeDecoder::run(std::int64_t token, std::int64_t left, const std::stop_token& cancel) {
  const auto max_draft = static_cast<std::size_t>(std::max<std::int64_t>(0, left - 1));
  const Ids draft = lookup_->draft(std::min({max_draft, speculation_.draft_length(), room()}));
  std::vector<std::int64_t> tokens{token};
  tokens.insert(tokens.end(), draft.begin(), draft.end());
  const Clock::time_point start = Clock::now();
  const Result<Logits> logits = runtime_.verify(cache_, tokens, cancel);
  if (!logits) return std::unexpected(logits.error());
  seconds_ = std::chrono::duration<double>(Clock::now() - start).count();
  stats_.drafted += static_cast<std::int64_t>(draft.size());
  logits_ = logits.value();
  verified_ = std::move(tokens);
  return {};
}

void SpeculativeDecoder::drop_unused() {
  cache_.rewind(cache_.length() - static_cast<std::int64_t>(verified_.size() - used_));
  verified_.clear();
  used_ = 0;
}

}  // namespace edgekiln
