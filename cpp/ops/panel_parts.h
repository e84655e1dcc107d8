// What products with weights in panels share, of whatever codes.
#pragma once

#include <cstddef>
#include <cstring>

#if defined(__AVX512VNNI__)
#include <immintrin.h>

namespace edgekiln::EDGEKILN_ISA {

inline constexpr std::size_t kTaskBytes = 96 << 10;  // of weights that a task of few rows reads, about
inline constexpr std::size_t kRowsATask = 16;        // that are quantized
// How far ahead of its use memory is asked for: the processor's own prefetching stops at pages, and starts late.
inline constexpr std::size_t kAhead = 2048;

inline std::size_t divided(std::size_t value, std::size_t by) { return (value + by - 1) / by; }

// Panels of a task of few rows: an even number of equal tasks, so that two threads end together.
inline std::size_t panels_a_task(std::size_t panels, std::size_t panel_bytes) {
  return divided(panels, 2 * divided(panels * panel_bytes, 2 * kTaskBytes));
}

// The cache line that is read kAhead bytes later.
inline void ask_ahead(const void* memory) { _mm_prefetch(static_cast<const char*>(memory) + kAhead, _MM_HINT_NTA); }

// Four codes of a row, for each column of a panel.
inline __m512i repeated(const void* codes) {
  int four;
  std::memcpy(&four, codes, sizeof four);
  return _mm512_set1_epi32(four);
}

}  // namespace edgekiln::EDGEKILN_ISA

#endif
