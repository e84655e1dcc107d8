// Base class of KV caches: the token ids that one sequence holds, and when its storage grows.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "engine/manifest.h"
#include "util/result.h"

namespace edgekiln {

using Ids = std::span<const std::int64_t>;

// Sizes and limits of an engine; `max_length` and `windows` in tokens, the others in elements. One entry a layer in the
// vectors; `windows` is that of KVCacheSpec.
struct Properties {
  explicit Properties(const Manifest& manifest);

  std::string target;
  std::int64_t vocab_size;
  std::int64_t max_length;
  std::vector<std::int64_t> kv_heads;
  std::vector<std::int64_t> head_dims;
  std::vector<std::int64_t> windows;
};

// Keys and values of one sequence. Not thread-safe.
class KVCache {
 public:
  // `properties` must outlive the cache.
  explicit KVCache(const Properties& properties) : properties_(properties) {}
  virtual ~KVCache() = default;
  KVCache(const KVCache&) = delete;
  KVCache& operator=(const KVCache&) = delete;

  // Ids of the tokens held; valid until the next call on the cache.
  Ids tokens() const { return tokens_; }
  std::int64_t length() const { return static_cast<std::int64_t>(tokens_.size()); }

  // Number of tokens that fit before the storage grows.
  std::int64_t capacity() const { return capacity_; }

  // Drop all tokens after the first `length`, which must not exceed length(), or all tokens where a layer has dropped
  // keys that they need. Returns the number of tokens left: `length` or 0.
  //
  // Layers with a window buffer hold the last tokens only (runtime/window_buffer.h): at least the last 512 tokens can
  // always be dropped. Other caches keep every length.
  std::int64_t rewind(std::int64_t length);

  // What `rewind(length)` would return.
  std::int64_t rewindable(std::int64_t length) const { return holds(length) ? length : 0; }

  // Record `tokens`, whose keys and values the graph has just written, as held.
  void append(Ids tokens) { tokens_.insert(tokens_.end(), tokens.begin(), tokens.end()); }

  // Grow the storage, if needed, so that it holds at least `length` tokens.
  //
  // The new capacity is the larger of length + 128 and 1.25 times the old one, rounded up to a multiple of 64, at least
  // 256 and at most max_length. Geometric growth bounds the total number of copied tokens by a constant times the
  // length. Errors: Code::kRequest if `length` exceeds max_length, Code::kMemory.
  [[nodiscard]] Result<void> reserve(std::int64_t length);

 protected:
  const Properties& properties() const { return properties_; }

 private:
  // Replace the storage by one for `capacity` tokens and keep the first length() tokens.
  [[nodiscard]] virtual Result<void> grow(std::int64_t capacity) = 0;

  // Whether the storage has all keys that the token after the first `length` sees.
  virtual bool holds(std::int64_t /*length*/) const { return true; }

  // Called when the cache has become empty.
  virtual void emptied() {}

  const Properties& properties_;
  std::vector<std::int64_t> tokens_;
  std::int64_t capacity_ = 0;
};

// The error message for a sequence of `length` tokens in an engine whose limit is `max_length`.
std::string too_long(std::int64_t length, std::int64_t max_length);

}  // namespace edgekiln
