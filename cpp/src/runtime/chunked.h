// The loop that adapters share: tokens are appended to a sequence in chunks, and a cache runs each of them.
#pragma once

#include <cstddef>
#include <stop_token>

#include "runtime/base.h"

namespace edgekiln {

// A cache that knows how to run the graph over itself.
class ChunkedCache : public Cache {
 public:
  using Cache::Cache;

  // Run the graph on `tokens`, at most a chunk, which follow those held; room is made for them before.
  //
  // `cancel` may end it early. An error is of Code::kRuntime or of Code::kMemory.
  virtual Result<void> run(Ids tokens, const std::stop_token& cancel) = 0;

  // float32[V], of the last position that ran.
  virtual Logits logits() const = 0;
};

// A runtime of such caches.
class ChunkedRuntime : public Runtime {
 public:
  // `chunk`: tokens that one run takes at most.
  ChunkedRuntime(const Manifest& manifest, std::size_t chunk) : Runtime(manifest), chunk_(chunk) {}

  Result<Logits> append(Cache& cache, Ids tokens, const std::stop_token& cancel) const final;

 protected:
  std::size_t chunk() const { return chunk_; }

 private:
  const std::size_t chunk_;
};

}  // namespace edgekiln
