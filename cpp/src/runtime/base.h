// What every runtime offers the generate loop: a sequence goes in as token ids, logits come out.
//
// An adapter to another library derives from Runtime and Cache and joins the table of runtime/registry.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <stop_token>
#include <string>
#include <vector>

#include "engine/manifest.h"
#include "util/result.h"

namespace edgekiln {

using Ids = std::span<const std::int64_t>;
using Logits = std::span<const float>;

// What the loop may ask of an engine; `max_length` is in tokens, the other sizes in elements of each layer.
struct Properties {
  explicit Properties(const Manifest& manifest);

  std::string target;
  std::int64_t vocab_size;
  std::int64_t max_length;
  std::vector<std::int64_t> kv_heads;
  std::vector<std::int64_t> head_dims;
};

// Keys and values of one sequence, for one thread at a time.
class Cache {
 public:
  explicit Cache(const Properties& properties) : properties_(properties) {}
  virtual ~Cache() = default;
  Cache(const Cache&) = delete;
  Cache& operator=(const Cache&) = delete;

  // The ids it holds; the next call on the cache may change them.
  Ids tokens() const { return tokens_; }
  std::int64_t length() const { return static_cast<std::int64_t>(tokens_.size()); }

  // Tokens it can hold before its storage grows.
  std::int64_t capacity() const { return capacity_; }

  // Forget the tokens after the first `length`, which it holds.
  void rewind(std::int64_t length) { tokens_.resize(static_cast<std::size_t>(length)); }

  // Count `tokens`, whose keys and values the graph has just written, as held.
  void append(Ids tokens) { tokens_.insert(tokens_.end(), tokens.begin(), tokens.end()); }

  // Make room for `length` tokens: the next larger power of two, up to the engine's max_length.
  //
  // Larger even if `length` is one itself, so that a prompt of 512 tokens does not grow at its first answer token. An
  // error is of Code::kRequest, the engine holds fewer, or of Code::kMemory.
  Result<void> reserve(std::int64_t length);

 protected:
  const Properties& properties() const { return properties_; }

 private:
  // Storage for `capacity` tokens that keeps the first length().
  virtual Result<void> grow(std::int64_t capacity) = 0;

  const Properties& properties_;
  std::vector<std::int64_t> tokens_;
  std::int64_t capacity_ = 0;
};

// A loaded engine. Calls on different caches may come from different threads.
class Runtime {
 public:
  explicit Runtime(const Manifest& manifest) : properties_(manifest) {}
  virtual ~Runtime() = default;
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  const Properties& properties() const { return properties_; }

  // Whose kernels run it: `stock`, the runtime's, or the instruction set of edgekiln's own.
  virtual std::string kernels() const = 0;

  virtual int threads() const = 0;

  // An empty cache, which must not outlive this; memory is taken as tokens come.
  virtual std::unique_ptr<Cache> new_cache() const = 0;

  // Append `tokens` to a cache of this runtime's.
  //
  // Returns the logits of the last position, float32[V], valid until the next call on the cache. An error is of
  // Code::kRequest (no tokens, one outside the vocabulary, more than the engine holds), of Code::kCancelled (`cancel`
  // was asked to stop: the cache holds what was computed), or of Code::kRuntime.
  virtual Result<Logits> append(Cache& cache, Ids tokens, const std::stop_token& cancel) const = 0;

  // Tokens that may be run together and get the bits that they would get one by one; 1: none are verified together.
  virtual std::size_t max_verify_tokens() const { return 1; }

  // Append 1 to max_verify_tokens() `tokens` to a cache of this runtime's, in one run.
  //
  // Returns the logits of every one of them, float32[S, V], valid until the next token is appended: rewinding leaves
  // them. Errors are those of `append`.
  virtual Result<Logits> verify(Cache& cache, Ids tokens, const std::stop_token& cancel) const;

 private:
  Properties properties_;
};

// Whether `tokens` may follow `held` of the same sequence; an error of Code::kRequest if not.
Result<void> check_ids(Ids tokens, const Properties& properties, std::int64_t held = 0);

// The sentence for a sequence of `length` tokens that an engine of `max_length` cannot hold.
std::string too_long(std::int64_t length, std::int64_t max_length);

}  // namespace edgekiln
