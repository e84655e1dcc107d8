// Software prefetch of a range of memory. For every instruction set.
#pragma once

#include <cstddef>

#include "kernels/common/aligned.h"

namespace edgekiln {

// Fetches the cache lines of `bytes` bytes into the L2 cache. More than a core has miss buffers for, some twenty lines
// on Zen 4, make it wait: callers spread them over a computation. GCC drops calls of functions that do nothing but
// prefetch, so those that call this one are inlined as well.
[[gnu::always_inline]] inline void prefetch_to_l2(const void* from, std::size_t bytes) {
  const auto* const line = static_cast<const std::byte*>(from);
  for (std::size_t at = 0; at < bytes; at += kAlignment) __builtin_prefetch(line + at, 0, 2);
}

}  // namespace edgekiln
