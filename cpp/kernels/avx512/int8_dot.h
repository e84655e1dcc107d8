// Int8 dot products of AVX512-VNNI; see packed/int8_dot.h.
//
// VPDPBUSD multiplies unsigned by signed bytes and adds four products to each int32 lane: unsigned weight codes of 4 or
// 8 bits by signed activation codes, or unsigned activation codes by int8 weights.
#pragma once

#include <immintrin.h>

#include "kernels/matmul_nbits.h"
#include "kernels/pack/packed_int8.h"
#include "kernels/packed/quantized_block.h"

namespace edgekiln::EDGEKILN_ISA {

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

// As many accumulators as fit the 32 registers.
template <int Vectors>
inline constexpr int kGemvTileM = static_cast<int>(kGemvMaxM);
inline constexpr int kNBitsTileM = 6, kNBitsTilePanels = 2;
inline constexpr int kInt8TileM = 6, kInt8TilePanels = 4;

// Four activation codes of one token in every 32-bit lane.
inline __m512i broadcast_4(const void* codes) {
  int four;
  std::memcpy(&four, codes, sizeof four);
  return _mm512_set1_epi32(four);
}

inline QuantizedBlock quantize_block(const float* a) {
  const __m512 x = _mm512_loadu_ps(a), y = _mm512_loadu_ps(a + 16);
  const float largest = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(x), _mm512_abs_ps(y)));
  const __m512 inverse = _mm512_set1_ps(largest == 0.0f ? 0.0f : 127.0f / largest);
  const __m512i p = _mm512_cvtps_epi32(_mm512_mul_ps(x, inverse)), q = _mm512_cvtps_epi32(_mm512_mul_ps(y, inverse));
  const __m256i codes = _mm256_set_m128i(_mm512_cvtepi32_epi8(q), _mm512_cvtepi32_epi8(p));
  return {reinterpret_cast<BlockCodes>(codes), largest / 127.0f, _mm512_reduce_add_epi32(_mm512_add_epi32(p, q))};
}

template <int Bits>
struct NBitsDot {
  using Weights = __m512i;
  using Sum = __m512i;

  static Weights weights(Bytes codes) { return reinterpret_cast<__m512i>(codes); }
  static std::int32_t compensation(BlockCodes, std::int32_t sum, bool zero_points) {
    return zero_points ? 0 : -(1 << (Bits - 1)) * sum;
  }
  static Sum start(std::int32_t compensation) { return _mm512_set1_epi32(compensation); }
  static Sum add(Sum sum, Weights weights, const std::int8_t* four) {
    return _mm512_dpbusd_epi32(sum, weights, broadcast_4(four));
  }
  static Floats finish(Sum sum) { return reinterpret_cast<Floats>(_mm512_cvtepi32_ps(sum)); }
};

struct Int8Gemm {
  using Weights = __m512i;

  static constexpr std::size_t kCodeBytes = 1;
  static constexpr int kActivationZeroPoint = PackedInt8::kActivationZeroPoint;

  static void store_codes(std::uint8_t* to, const Floats (&x)[4]) {
    const auto rounded = [&](int i) {
      return _mm512_add_epi32(_mm512_cvtps_epi32(reinterpret_cast<__m512>(x[i])),
                              _mm512_set1_epi32(kActivationZeroPoint));
    };
    // The packs interleave four vectors by 128-bit lanes; this permutation restores their order.
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i low = _mm512_packs_epi32(rounded(0), rounded(1)), high = _mm512_packs_epi32(rounded(2), rounded(3));
    _mm512_storeu_si512(to, _mm512_permutexvar_epi32(order, _mm512_packus_epi16(low, high)));
  }
  static Weights weights(Bytes codes) { return reinterpret_cast<__m512i>(codes); }
  static Ints dot(Ints sum, Weights weights, const std::uint8_t* four) {
    return reinterpret_cast<Ints>(_mm512_dpbusd_epi32(reinterpret_cast<__m512i>(sum), broadcast_4(four), weights));
  }
};
using Int8Gemv = Int8Gemm;

}  // namespace edgekiln::EDGEKILN_ISA
