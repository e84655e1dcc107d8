// What products with weights in panels share, of whatever codes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/matmul_nbits.h"

#if defined(__AVX512VNNI__)
#include <immintrin.h>

namespace edgekiln::EDGEKILN_ISA {

inline constexpr std::size_t kTaskBytes = 32 << 10;  // of weights that a task of few rows reads, about
// Of a tile: as many sums as registers hold, and of one panel as many rows as count as few.
template <int TilePanels>
inline constexpr int kRowsOfTile = TilePanels == 1 ? static_cast<int>(kQuantizedRows) : 6;
// How far ahead of its use memory is asked for, and how: the processor's own prefetching stops at pages, and starts
// late. Asked for past the caches, lines come slowly to Intel's processors and leave the cache that they were in, but
// fast to AMD's, whose caches they spare. AMD's have bfloat16 and no tiles.
#if defined(__AVX512BF16__) && !defined(EDGEKILN_TILES)
inline constexpr std::size_t kAhead = 2048;
inline constexpr auto kHint = _MM_HINT_NTA;
#else
inline constexpr std::size_t kAhead = 4096;
inline constexpr auto kHint = _MM_HINT_T0;
#endif

inline std::size_t divided(std::size_t value, std::size_t by) { return (value + by - 1) / by; }

// Panels of a task of few rows: an even number of equal tasks, so that two threads end together.
inline std::size_t panels_a_task(std::size_t panels, std::size_t panel_bytes) {
  return divided(panels, 2 * divided(panels * panel_bytes, 2 * kTaskBytes));
}

// The cache line that is read kAhead bytes later.
inline void ask_ahead(const void* memory) { _mm_prefetch(static_cast<const char*>(memory) + kAhead, kHint); }

// Four codes of a row, for each column of a panel.
inline __m512i repeated(const void* codes) {
  int four;
  std::memcpy(&four, codes, sizeof four);
  return _mm512_set1_epi32(four);
}

// A block of 32 activations as scale * code, with codes in -127..127.
struct RoundedBlock {
  __m128i codes[2];
  float scale;
  std::int32_t sum;  // of the codes
};

inline RoundedBlock rounded_block(const float* a) {
  const __m512 x = _mm512_loadu_ps(a), y = _mm512_loadu_ps(a + 16);
  const float largest = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(x), _mm512_abs_ps(y)));
  const __m512 inverse = _mm512_set1_ps(largest == 0.0f ? 0.0f : 127.0f / largest);
  const __m512i p = _mm512_cvtps_epi32(_mm512_mul_ps(x, inverse)), q = _mm512_cvtps_epi32(_mm512_mul_ps(y, inverse));
  return {{_mm512_cvtepi32_epi8(p), _mm512_cvtepi32_epi8(q)},
          largest / 127.0f,
          _mm512_reduce_add_epi32(_mm512_add_epi32(p, q))};
}

}  // namespace edgekiln::EDGEKILN_ISA

#endif
