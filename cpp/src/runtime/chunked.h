// Chunked prefill: a base class for runtimes that append a prompt to the cache in chunks of bounded size.
#pragma once

#include <cstddef>
#include <stop_token>

#include "runtime/base.h"

namespace edgekiln {

// A cache that can run the graph on itself.
class ChunkedKVCache : public KVCache {
 public:
  using KVCache::KVCache;

  // Run the graph on `tokens`, at most one chunk, at the positions after the tokens held. The caller has reserved
  // storage for them. `cancel` may end the run early. Errors: Code::kRuntime, Code::kMemory.
  [[nodiscard]] virtual Result<void> run(Ids tokens, const std::stop_token& cancel) = 0;

  // Logits of the last position of the last run, float32[V].
  virtual Logits logits() const = 0;
};

// A runtime whose new_cache() returns ChunkedKVCache.
class ChunkedRuntime : public Runtime {
 public:
  // `chunk`: maximum number of tokens of one run.
  ChunkedRuntime(const Manifest& manifest, std::size_t chunk) : Runtime(manifest), chunk_(chunk) {}

  Result<Logits> append(KVCache& cache, Ids tokens, const std::stop_token& cancel) const final;

 protected:
  std::size_t chunk() const { return chunk_; }

 private:
  const std::size_t chunk_;
};

}  // namespace edgekiln
