#include "runtime/base.h"

#include <algorithm>

#include "util/str_cat.h"

namespace edgekiln {

Properties::Properties(const Manifest& manifest)
    : target(manifest.target),
      vocab_size(manifest.architecture.vocab_size),
      max_length(manifest.architecture.max_length),
      kv_heads(manifest.architecture.kv_heads),
      head_dims(manifest.architecture.head_dims) {}

Result<void> Cache::reserve(std::int64_t length) {
  // Room for an answer, and a quarter more than there was: what a growing cache is copied stays a few times its length.
  constexpr std::int64_t kSmallestCapacity = 256, kCapacityStep = 64;
  if (length <= capacity_) return {};
  const std::int64_t limit = properties_.max_length;
  if (length > limit) return Error{Code::kRequest, too_long(length, limit)};
  const std::int64_t larger = std::max(length + kSmallestCapacity / 2, capacity_ + capacity_ / 4);
  const std::int64_t steps = (larger + kCapacityStep - 1) / kCapacityStep;
  const std::int64_t capacity = std::min(std::max(kSmallestCapacity, steps * kCapacityStep), limit);
  if (Result<void> grown = grow(capacity); !grown) return grown;
  tokens_.reserve(static_cast<std::size_t>(capacity));
  capacity_ = capacity;
  return {};
}

Result<Logits> Runtime::verify(Cache& cache, Ids tokens, const std::stop_token& cancel) const {
  if (tokens.size() > 1) return Error{Code::kInternal, sentence(tokens.size(), " tokens to verify, the most is 1")};
  return append(cache, tokens, cancel);
}

Result<void> check_ids(Ids tokens, const Properties& properties, std::int64_t held) {
  if (tokens.empty()) return Error{Code::kRequest, "prompt is empty: give at least one token"};
  for (const std::int64_t token : tokens)
    if (token < 0 || token >= properties.vocab_size)
      return Error{Code::kRequest, sentence("token id ", token, " is outside the vocabulary of ", properties.vocab_size,
                                            ": check the tokenizer")};
  const auto length = held + static_cast<std::int64_t>(tokens.size());
  if (length > properties.max_length) return Error{Code::kRequest, too_long(length, properties.max_length)};
  return {};
}

std::string too_long(std::int64_t length, std::int64_t max_length) {
  return sentence("prompt has ", length, " tokens, the engine holds ", max_length, ": raise --max-length at export");
}

}  // namespace edgekiln
