// Int8 operations on 512-bit vectors, and the tiles that fit the registers, for the dot products of packed weights.
#pragma once

#include <immintrin.h>

#include "kernels/matmul_nbits.h"
#include "kernels/packed/quantized_block.h"

namespace edgekiln::EDGEKILN_ISA {

// GEMVs prefetch weights kPrefetchBytes ahead, as the hardware prefetcher stops at page boundaries and starts late.
// Non-temporal prefetch is fast on AMD and spares its caches; on Intel it is slow and evicts the line. Of the
// instruction sets with AVX-512, only avx512bf16 without AMX is AMD's.
#if defined(__AVX512BF16__) && !defined(EDGEKILN_AMX)
inline constexpr std::size_t kPrefetchBytes = 2048;
inline constexpr auto kPrefetchHint = _MM_HINT_NTA;
inline constexpr bool kPrefetchesPanels = true;
#else
inline constexpr bool kPrefetchesPanels = false;  // not measured on Intel
inline constexpr std::size_t kPrefetchBytes = 4096;
inline constexpr auto kPrefetchHint = _MM_HINT_T0;
#endif

inline void prefetch_ahead(const void* memory) {
  _mm_prefetch(static_cast<const char*>(memory) + kPrefetchBytes, kPrefetchHint);
}

// As many accumulators as fit the 32 registers. On AMD a GEMM takes panels one by one, too: its prefetches are worth
// more than half as many broadcasts.
template <int Vectors>
inline constexpr int kGemvTileM = static_cast<int>(kGemvMaxM);
#if defined(__AVX512BF16__) && !defined(EDGEKILN_AMX)
inline constexpr int kNBitsTileM = kGemvTileM<1>, kNBitsTilePanels = 1;
#else
inline constexpr int kNBitsTileM = 6, kNBitsTilePanels = 2;
#endif
inline constexpr int kInt8TileM = 6, kInt8TilePanels = 4;

// Four activation codes of one token in every 32-bit lane.
inline Ints broadcast_4(const void* codes) {
  int four;
  std::memcpy(&four, codes, sizeof four);
  return reinterpret_cast<Ints>(_mm512_set1_epi32(four));
}

inline QuantizedBlock quantize_block(const float* a) {
  const __m512 x = _mm512_loadu_ps(a), y = _mm512_loadu_ps(a + 16);
  const float largest = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(x), _mm512_abs_ps(y)));
  const __m512 inverse = _mm512_set1_ps(largest == 0.0f ? 0.0f : 127.0f / largest);
  const __m512i p = _mm512_cvtps_epi32(_mm512_mul_ps(x, inverse)), q = _mm512_cvtps_epi32(_mm512_mul_ps(y, inverse));
  const __m256i codes = _mm256_set_m128i(_mm512_cvtepi32_epi8(q), _mm512_cvtepi32_epi8(p));
  return {reinterpret_cast<BlockCodes>(codes), largest / 127.0f, _mm512_reduce_add_epi32(_mm512_add_epi32(p, q))};
}

// Rounds 4 * kLanes values to bytes, within -128..127 or, with `zero_point` added, 0..255.
template <bool Unsigned>
inline Ints rounded_to_bytes(const Floats (&x)[4], int zero_point) {
  const auto rounded = [&](int i) {
    return _mm512_add_epi32(_mm512_cvtps_epi32(reinterpret_cast<__m512>(x[i])), _mm512_set1_epi32(zero_point));
  };
  // The packs interleave four vectors by 128-bit lanes; this permutation restores their order.
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m512i low = _mm512_packs_epi32(rounded(0), rounded(1)), high = _mm512_packs_epi32(rounded(2), rounded(3));
  const __m512i bytes = Unsigned ? _mm512_packus_epi16(low, high) : _mm512_packs_epi16(low, high);
  return reinterpret_cast<Ints>(_mm512_permutexvar_epi32(order, bytes));
}

// Rounds 2 * kLanes values to int16.
inline Ints rounded_to_words(Floats x, Floats y) {
  const auto rounded = [](Floats x) { return _mm512_cvtps_epi32(reinterpret_cast<__m512>(x)); };
  const __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
  return reinterpret_cast<Ints>(_mm512_permutexvar_epi64(order, _mm512_packs_epi32(rounded(x), rounded(y))));
}

// Products of unsigned by signed bytes, two added to each int16, saturated.
inline Ints maddubs(Ints bytes, Ints signed_bytes) {
  return reinterpret_cast<Ints>(
      _mm512_maddubs_epi16(reinterpret_cast<__m512i>(bytes), reinterpret_cast<__m512i>(signed_bytes)));
}

// Products of int16, two added to each int32.
inline Ints madd(Ints a, Ints b) {
  return reinterpret_cast<Ints>(_mm512_madd_epi16(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
}

inline Ints add_words(Ints a, Ints b) {
  return reinterpret_cast<Ints>(_mm512_add_epi16(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
}

inline Ints ones_in_words() { return reinterpret_cast<Ints>(_mm512_set1_epi16(1)); }

// Each byte of x with the sign of the one in `signs`; not for signs of 0, where it may be anything.
inline Ints with_signs(Ints x, Ints signs) {
  const auto bytes = reinterpret_cast<__m512i>(x);
  return reinterpret_cast<Ints>(_mm512_mask_sub_epi8(bytes, _mm512_movepi8_mask(reinterpret_cast<__m512i>(signs)),
                                                     _mm512_setzero_si512(), bytes));
}

inline Ints byte_magnitudes(Ints x) { return reinterpret_cast<Ints>(_mm512_abs_epi8(reinterpret_cast<__m512i>(x))); }

// The low and the high bytes of each int16, sign-extended.
inline Ints low_bytes(Ints x) {
  return reinterpret_cast<Ints>(_mm512_srai_epi16(_mm512_slli_epi16(reinterpret_cast<__m512i>(x), 8), 8));
}
inline Ints high_bytes(Ints x) { return reinterpret_cast<Ints>(_mm512_srai_epi16(reinterpret_cast<__m512i>(x), 8)); }

#if defined(__AVX512VNNI__)
#define EDGEKILN_HAS_DPBUSD

// Adds to each int32 four products of unsigned by signed bytes.
inline Ints dpbusd(Ints sum, Ints bytes, Ints signed_bytes) {
  return reinterpret_cast<Ints>(_mm512_dpbusd_epi32(reinterpret_cast<__m512i>(sum), reinterpret_cast<__m512i>(bytes),
                                                    reinterpret_cast<__m512i>(signed_bytes)));
}

#endif

}  // namespace edgekiln::EDGEKILN_ISA
