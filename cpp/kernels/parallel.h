// How kernels get threads and memory.
#pragma once

#include <cstddef>
#include <vector>

namespace edgekiln {

// Runs `task(context, i)` for each i below `count`, on as many threads as the caller has; returns when all are done.
struct Parallel {
  void (*run)(void* self, void (*task)(void*, std::size_t), std::size_t count, void* context);
  void* self;
};

// One task after another.
inline constexpr Parallel kSerial{[](void*, void (*task)(void*, std::size_t), std::size_t count, void* context) {
                                    for (std::size_t i = 0; i < count; ++i) task(context, i);
                                  },
                                  nullptr};

// Memory that is kept from call to call.
using Scratch = std::vector<float>;

// At least `size` floats of it, where a line of the cache begins. What it held is lost where it must grow, so that
// there never is both.
float* at_least(Scratch& scratch, std::size_t size);

}  // namespace edgekiln
