#include "runtime/kv_cache.h"

#include <algorithm>

namespace edgekiln {

namespace {

constexpr std::int64_t kMinCapacity = 256;
constexpr std::int64_t kCapacityStep = 64;
constexpr std::int64_t kAnswerReserve = 128;  // so that the first answer token after a prompt does not grow the storage

}  // namespace

Properties::Properties(const Manifest& manifest)
    : target(manifest.target),
      vocab_size(manifest.architecture.vocab_size),
      max_length(manifest.architecture.max_length),
      kv_heads(manifest.architecture.kv_heads),
      head_dims(manifest.architecture.head_dims),
      windows(manifest.kv_cache.windows),
      recompute_beyond(manifest.kv_cache.recompute_beyond),
      states(manifest.kv_cache.states),
      length_advice(manifest.architecture.length_advice()) {}

std::int64_t KVCache::rewind(std::int64_t length) {
  const std::int64_t left = rewindable(length);
  tokens_.resize(static_cast<std::size_t>(left));
  if (left == 0) emptied();
  if (states_) states_->rewind(left);
  return left;
}

std::int64_t KVCache::rewindable(std::int64_t length) const {
  const std::int64_t left = states_ && length != this->length() ? states_->snapshots().latest(length) : length;
  return holds(left) ? left : 0;
}

bool KVCache::is_stale(std::int64_t length) const {
  const std::optional<std::int64_t>& limit = properties_.recompute_beyond;
  return limit && this->length() && (sequence_length_ > *limit) != (length > *limit);
}

void KVCache::append(Ids tokens) {
  tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
  if (states_) states_->end_run(length());
}

Result<void> KVCache::begin_prompt() { return states_ ? states_->snapshot(length()) : Result<void>(); }

Result<void> KVCache::end_prompt() {
  if (!states_) return {};
  if (Result<void> taken = states_->snapshot(length()); !taken) return taken;
  states_->end_prompt(length());
  return {};
}

Result<void> KVCache::snapshot_if_due() {
  return states_ && states_->snapshots().due(length()) ? states_->snapshot(length()) : Result<void>();
}

Result<void> KVCache::reserve(std::int64_t length) {
  if (length <= capacity_) return {};
  const std::int64_t limit = properties_.max_length;
  if (length > limit) return fail(Code::kRequest, too_long(length, properties_));
  const std::int64_t wanted = std::max(length + kAnswerReserve, capacity_ + capacity_ / 4);
  const std::int64_t rounded = (wanted + kCapacityStep - 1) / kCapacityStep * kCapacityStep;
  const std::int64_t capacity = std::min(std::max(kMinCapacity, rounded), limit);
  if (Result<void> grown = grow(capacity); !grown) return grown;
  tokens_.reserve(static_cast<std::size_t>(capacity));
  capacity_ = capacity;
  return {};
}

std::string too_long(std::int64_t length, const Properties& properties) {
  return str_cat("prompt has ", length, " tokens, the engine holds ", properties.max_length, ": ",
                 properties.length_advice);
}

}  // namespace edgekiln
