// The caller's thread pool and scratch memory, as kernels use them.
#pragma once

#include <cstddef>
#include <vector>

namespace edgekiln {

// A parallel loop on the caller's thread pool: run() calls `task(context, i)` once for each i < count, on any threads,
// and returns when all calls have returned.
struct Parallel {
  void (*run)(void* self, void (*task)(void*, std::size_t), std::size_t count, void* context);
  void* self;
};

// Runs all iterations on the calling thread.
inline constexpr Parallel kSerial{[](void*, void (*task)(void*, std::size_t), std::size_t count, void* context) {
                                    for (std::size_t i = 0; i < count; ++i) task(context, i);
                                  },
                                  nullptr};

// Memory that a caller keeps from call to call, so that kernels allocate only while it grows.
using Scratch = std::vector<float>;

// At least `size` floats of a scratch, aligned to a cache line. Growing discards the content first, so that the old and
// the new memory never coexist.
float* at_least(Scratch& scratch, std::size_t size);

}  // namespace edgekiln
