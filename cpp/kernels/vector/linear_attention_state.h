// The state of linear attention as its passes read and write it, in vectors of its columns. For every instruction set.
#pragma once

#include <cstddef>

#include "kernels/vector/vector.h"

namespace edgekiln::EDGEKILN_ISA {

// The first `count` of kLanes floats at `from`, then zeros. Without std::copy_n: GCC makes REP MOVS of it, which takes
// longer to start than a token to update.
inline Floats load_first(const float* from, std::size_t count) {
  if (count >= kLanes) return load(from);
  Floats found = {};
  for (std::size_t i = 0; i < count; ++i) found[i] = from[i];
  return found;
}

inline void store_first(float* to, Floats values, std::size_t count) {
  if (count >= kLanes) return store(to, values);
  for (std::size_t i = 0; i < count; ++i) to[i] = values[i];
}

// The rows of a state, `stride` floats apart.
struct StateRows {
  const float* first;
  std::size_t stride;
};

// Where the rows of the next state go.
struct NextRows {
  float* first;
  std::size_t stride;
  bool past_caches = false;  // rows are aligned to vectors, and are not read before others have displaced them
};

// A store that, if Stream, goes past the caches, so that the processor does not read the lines that it overwrites.
template <bool Stream>
inline void store_state(float* to, Floats value) {
#if defined(__AVX512F__)
  if constexpr (Stream) return _mm512_stream_ps(to, reinterpret_cast<__m512>(value));
#elif defined(__AVX2__)
  if constexpr (Stream) return _mm256_stream_ps(to, reinterpret_cast<__m256>(value));
#endif
  store(to, value);
}

// The state from memory, as far ahead of a row as gave most (docs/lab-notes.md).
template <int Vectors>
inline void prefetch_state(const float* row) {
  constexpr std::size_t kAhead = 2048 / sizeof(float), kLine = 64 / sizeof(float);
  for (std::size_t i = 0; i < Vectors * kLanes; i += kLine) __builtin_prefetch(row + kAhead + i);
}

// Before other threads may read what store_state() wrote past the caches.
inline void end_streaming() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

#if defined(__AVX2__)
inline constexpr bool kStreams = true;
#else
inline constexpr bool kStreams = false;
#endif

}  // namespace edgekiln::EDGEKILN_ISA
