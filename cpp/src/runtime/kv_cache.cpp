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
      windows(manifest.kv_cache.windows) {}

std::int64_t KVCache::rewind(std::int64_t length) {
  const std::int64_t left = rewindable(length);
  tokens_.resize(static_cast<std::size_t>(left));
  if (left == 0) emptied();
  return left;
}

Result<void> KVCache::reserve(std::int64_t length) {
  if (length <= capacity_) return {};
  const std::int64_t limit = properties_.max_length;
  if (length > limit) return fail(Code::kRequest, too_long(length, limit));
  const std::int64_t wanted = std::max(length + kAnswerReserve, capacity_ + capacity_ / 4);
  const std::int64_t rounded = (wanted + kCapacityStep - 1) / kCapacityStep * kCapacityStep;
  const std::int64_t capacity = std::min(std::max(kMinCapacity, rounded), limit);
  if (Result<void> grown = grow(capacity); !grown) return grown;
  tokens_.reserve(static_cast<std::size_t>(capacity));
  capacity_ = capacity;
  return {};
}

std::string too_long(std::int64_t length, std::int64_t max_length) {
  return str_cat("prompt has ", length, " tokens, the engine holds ", max_length,
                 ": shorten it or build the engine with a larger --max-length");
}

}  // namespace edgekiln
