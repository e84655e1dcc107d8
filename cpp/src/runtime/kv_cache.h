// Base class of KV caches: the token ids that one sequence holds, and when its storage grows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engine/manifest.h"
#include "runtime/states.h"
#include "util/result.h"

namespace edgekiln {

using Ids = std::span<const std::int64_t>;

// Sizes and limits of an engine; `max_length`, `windows` and `recompute_beyond` in tokens, the others in elements. One
// entry a KV cache layer in the vectors, and one a state in `states`; `windows`, `recompute_beyond` and `states` are
// those of KVCacheSpec.
struct Properties {
  explicit Properties(const Manifest& manifest);

  std::string target;
  std::int64_t vocab_size;
  std::int64_t max_length;
  std::vector<std::int64_t> kv_heads;
  std::vector<std::int64_t> head_dims;
  std::vector<std::int64_t> windows;
  std::optional<std::int64_t> recompute_beyond;
  std::vector<StateSpec> states;
  std::string length_advice;  // that of Architecture
};

// Keys, values and states of one sequence. Not thread-safe.
class KVCache {
 public:
  // `properties` must outlive the cache. `states`: null if the engine has none.
  explicit KVCache(const Properties& properties, std::unique_ptr<States> states = nullptr)
      : properties_(properties), states_(std::move(states)) {}
  virtual ~KVCache() = default;
  KVCache(const KVCache&) = delete;
  KVCache& operator=(const KVCache&) = delete;

  // Ids of the tokens held; valid until the next call on the cache.
  Ids tokens() const { return tokens_; }
  std::int64_t length() const { return static_cast<std::int64_t>(tokens_.size()); }

  // Number of tokens that fit before the storage grows.
  std::int64_t capacity() const { return capacity_; }

  // Drop all tokens after the first `length`, which must not exceed length(), or more where the cache cannot keep
  // these. Returns the number of tokens left, at most `length`.
  //
  // Layers with a window buffer hold the last tokens only (runtime/window_buffer.h): at least the last 512 tokens can
  // always be dropped; where keys are missing that the tokens need, all tokens are dropped. A state holds the sequence
  // as it is: tokens are dropped up to the latest snapshot (runtime/snapshots.h), of which there are at the start and
  // the end of the last prompts of several tokens, and about every 512 tokens. Other caches keep every length. To
  // rewind to the current length drops nothing.
  std::int64_t rewind(std::int64_t length);

  // What `rewind(length)` would return.
  std::int64_t rewindable(std::int64_t length) const;

  // Record `tokens`, whose keys, values and states the graph has just written, as held.
  void append(Ids tokens);

  // Whether a sequence that is to have `length` tokens has other keys and values than those that are held.
  bool is_stale(std::int64_t length) const;

  // Set the length of the sequence with all tokens of the prompt or step that is next.
  void set_sequence_length(std::int64_t length) { sequence_length_ = length; }

  // Take a snapshot before several tokens are appended: they may be replaced by others.
  [[nodiscard]] Result<void> begin_prompt();

  // Take a snapshot after several tokens were appended: the answer may be replaced by another one.
  [[nodiscard]] Result<void> end_prompt();

  // Take a snapshot if the last one is far behind.
  [[nodiscard]] Result<void> snapshot_if_due();

  // Grow the storage, if needed, so that it holds at least `length` tokens.
  //
  // The new capacity is the larger of length + 128 and 1.25 times the old one, rounded up to a multiple of 64, at least
  // 256 and at most max_length. Geometric growth bounds the total number of copied tokens by a constant times the
  // length. Errors: Code::kRequest if `length` exceeds max_length, Code::kMemory.
  [[nodiscard]] Result<void> reserve(std::int64_t length);

 protected:
  const Properties& properties() const { return properties_; }

  // Null if the engine has no states.
  States* states() const { return states_.get(); }

  // The length last set, at an address that a graph's input may be bound to.
  std::int64_t& sequence_length() { return sequence_length_; }

  // Prepare the states for a run. Returns which of their two buffers it reads, 0 or 1; it writes the other one.
  Result<std::size_t> begin_run() { return states_ ? states_->begin_run(length()) : Result<std::size_t>(0); }

 private:
  // Replace the storage by one for `capacity` tokens and keep the first length() tokens.
  [[nodiscard]] virtual Result<void> grow(std::int64_t capacity) = 0;

  // Whether the storage has all keys that the token after the first `length` sees.
  virtual bool holds(std::int64_t /*length*/) const { return true; }

  // Called when the cache has become empty.
  virtual void emptied() {}

  const Properties& properties_;
  const std::unique_ptr<States> states_;
  std::vector<std::int64_t> tokens_;
  std::int64_t capacity_ = 0;
  std::int64_t sequence_length_ = 0;
};

// The error message for a sequence of `length` tokens, which is more than `max_length`.
std::string too_long(std::int64_t length, const Properties& properties);

}  // namespace edgekiln
