// The runtime interface: token ids in, logits out. Every target has an adapter that implements it.
//
// To add an adapter, derive from Runtime and KVCache (or from their chunked forms in runtime/chunked.h) and add a row
// to the table in runtime/registry.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <stop_token>
#include <string>
#include <vector>

#include "engine/manifest.h"
#include "runtime/kv_cache.h"
#include "util/result.h"

namespace edgekiln {

using Logits = std::span<const float>;

// What loading an engine does with the file of packed weights beside it. kWrite reads it, and writes one where none is,
// which stays if Runtime::keep_packed_weights() is called.
enum class PackCacheUse { kOff, kRead, kWrite };

// A loaded engine. Thread-safe: calls with different caches may run concurrently.
class Runtime {
 public:
  explicit Runtime(const Manifest& manifest) : properties_(manifest) {}
  virtual ~Runtime() = default;
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  const Properties& properties() const { return properties_; }

  // The kernels that run the graph: the library's name, as "onnxruntime", or the instruction set of edgekiln's kernels,
  // as "avx512bf16".
  virtual std::string kernels() const = 0;

  virtual int threads() const = 0;

  // Let the file of packed weights that loading the engine wrote stay: its weights have been checked.
  virtual void keep_packed_weights() const {}

  // An empty cache. It must not outlive the runtime. Its storage is allocated as tokens are appended.
  virtual std::unique_ptr<KVCache> new_cache() const = 0;

  // Append `tokens` to a cache that this runtime made.
  //
  // Returns the logits of the last position, float32[V], valid until the next call on the cache. Errors:
  // Code::kRequest if there are no tokens, one is outside the vocabulary, or they exceed max_length; Code::kCancelled
  // if `cancel` requested a stop, in which case the cache holds the tokens computed so far; Code::kRuntime;
  // Code::kMemory.
  virtual Result<Logits> append(KVCache& cache, Ids tokens, const std::stop_token& cancel) const = 0;

  // Largest number of tokens for which `verify` gives the bits that `append` gives token by token; 1 if the runtime
  // cannot do so for more.
  virtual std::size_t max_verify_tokens() const { return 1; }

  // Append 1 to max_verify_tokens() tokens to a cache that this runtime made, in a single run.
  //
  // Returns the logits of every position, float32[S, V], valid until the next append or verify; rewinding the cache
  // keeps them valid. Errors are those of `append`.
  virtual Result<Logits> verify(KVCache& cache, Ids tokens, const std::stop_token& cancel) const;

 private:
  Properties properties_;
};

// Check that `tokens` may follow `held` tokens of the same sequence; an error of Code::kRequest if not.
[[nodiscard]] Result<void> check_ids(Ids tokens, const Properties& properties, std::int64_t held = 0);

// Check that all tokens are in [0, vocab_size); an error of Code::kRequest if not.
[[nodiscard]] Result<void> check_vocabulary(Ids tokens, std::int64_t vocab_size);

}  // namespace edgekiln
