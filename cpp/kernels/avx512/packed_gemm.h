// Shared by the GEMMs and GEMVs of packed weights: tile sizes, prefetching, task sizes, quantized activation blocks.
// For AVX512-VNNI.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/matmul_nbits.h"

namespace edgekiln::EDGEKILN_ISA {

// Activations are quantized in blocks of so many values of k, which divides every group size.
inline constexpr std::size_t kBlock = 32;

// A GEMV task reads about so many bytes of weights.
inline constexpr std::size_t kTaskBytes = 32 << 10;

// Tokens of a register tile: as many accumulators as fit the 32 registers. One panel takes all tokens of a GEMV.
template <int TilePanels>
inline constexpr int kTileM = TilePanels == 1 ? static_cast<int>(kGemvMaxM) : 6;

// GEMVs prefetch weights kPrefetchBytes ahead, as the hardware prefetcher stops at page boundaries and starts late.
// Non-temporal prefetch is fast on AMD and spares its caches; on Intel it is slow and evicts the line. Of the
// instruction sets, only avx512bf16 without AMX is AMD's.
#if defined(__AVX512BF16__) && !defined(EDGEKILN_AMX)
inline constexpr std::size_t kPrefetchBytes = 2048;
inline constexpr auto kPrefetchHint = _MM_HINT_NTA;
#else
inline constexpr std::size_t kPrefetchBytes = 4096;
inline constexpr auto kPrefetchHint = _MM_HINT_T0;
#endif

inline void prefetch_ahead(const void* memory) {
  _mm_prefetch(static_cast<const char*>(memory) + kPrefetchBytes, kPrefetchHint);
}

inline std::size_t ceil_div(std::size_t value, std::size_t by) { return (value + by - 1) / by; }

// Panels of a GEMV task: an even number of equal tasks, so that two threads finish together.
inline std::size_t panels_per_task(std::size_t panels, std::size_t panel_bytes) {
  return ceil_div(panels, 2 * ceil_div(panels * panel_bytes, 2 * kTaskBytes));
}

// Four activation codes of one token in every 32-bit lane, as VPDPBUSD takes them for the 16 columns of a panel.
inline __m512i broadcast_4(const void* codes) {
  int four;
  std::memcpy(&four, codes, sizeof four);
  return _mm512_set1_epi32(four);
}

// kBlock activations as scale * code, codes in -127..127.
struct QuantizedBlock {
  __m128i codes[2];
  float scale;
  std::int32_t sum;  // of the codes
};

inline QuantizedBlock quantize_block(const float* a) {
  const __m512 x = _mm512_loadu_ps(a), y = _mm512_loadu_ps(a + 16);
  const float largest = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(x), _mm512_abs_ps(y)));
  const __m512 inverse = _mm512_set1_ps(largest == 0.0f ? 0.0f : 127.0f / largest);
  const __m512i p = _mm512_cvtps_epi32(_mm512_mul_ps(x, inverse)), q = _mm512_cvtps_epi32(_mm512_mul_ps(y, inverse));
  return {{_mm512_cvtepi32_epi8(p), _mm512_cvtepi32_epi8(q)},
          largest / 127.0f,
          _mm512_reduce_add_epi32(_mm512_add_epi32(p, q))};
}

}  // namespace edgekiln::EDGEKILN_ISA
