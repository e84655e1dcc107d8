// Int8 operations on 256-bit vectors, and the tiles that fit the registers, for the dot products of packed weights.
#pragma once

#include <immintrin.h>

#include "kernels/avx2/avx_vnni.h"
#include "kernels/matmul_nbits.h"
#include "kernels/packed/quantized_block.h"

namespace edgekiln::EDGEKILN_ISA {

// GEMVs prefetch weights kPrefetchBytes ahead, as the hardware prefetcher stops at page boundaries and starts late.
inline constexpr std::size_t kPrefetchBytes = 1024;
inline constexpr bool kPrefetchesPanels = false;

inline void prefetch_ahead(const void* memory) {
  _mm_prefetch(static_cast<const char*>(memory) + kPrefetchBytes, _MM_HINT_T0);
}

// As many accumulators as fit the 16 registers.
template <int Vectors>
inline constexpr int kGemvTileM = Vectors == 1 ? static_cast<int>(kGemvMaxM) : 4;
inline constexpr int kNBitsTileM = 6, kNBitsTilePanels = 1;
inline constexpr int kInt8TileM = 6, kInt8TilePanels = 1;

// Four activation codes of one token in every 32-bit lane.
inline Ints broadcast_4(const void* codes) {
  int four;
  std::memcpy(&four, codes, sizeof four);
  return reinterpret_cast<Ints>(_mm256_set1_epi32(four));
}

// Rounds 4 * kLanes values to bytes, within -128..127 or, with `zero_point` added, 0..255.
template <bool Unsigned>
inline Ints rounded_to_bytes(const Floats (&x)[4], int zero_point) {
  const auto rounded = [&](int i) { return reinterpret_cast<__m256i>(to_ints(x[i]) + zero_point); };
  // The packs interleave four vectors by 128-bit lanes; this permutation restores their order.
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  const __m256i low = _mm256_packs_epi32(rounded(0), rounded(1)), high = _mm256_packs_epi32(rounded(2), rounded(3));
  const __m256i bytes = Unsigned ? _mm256_packus_epi16(low, high) : _mm256_packs_epi16(low, high);
  return reinterpret_cast<Ints>(_mm256_permutevar8x32_epi32(bytes, order));
}

// Rounds 2 * kLanes values to int16.
inline Ints rounded_to_words(Floats x, Floats y) {
  const auto rounded = [](Floats x) { return reinterpret_cast<__m256i>(to_ints(x)); };
  return reinterpret_cast<Ints>(_mm256_permute4x64_epi64(_mm256_packs_epi32(rounded(x), rounded(y)), 0xd8));
}

// Products of unsigned by signed bytes, two added to each int16, saturated.
inline Ints maddubs(Ints bytes, Ints signed_bytes) {
  return reinterpret_cast<Ints>(
      _mm256_maddubs_epi16(reinterpret_cast<__m256i>(bytes), reinterpret_cast<__m256i>(signed_bytes)));
}

// Products of int16, two added to each int32.
inline Ints madd(Ints a, Ints b) {
  return reinterpret_cast<Ints>(_mm256_madd_epi16(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
}

inline Ints add_words(Ints a, Ints b) {
  return reinterpret_cast<Ints>(_mm256_add_epi16(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
}

inline Ints ones_in_words() { return reinterpret_cast<Ints>(_mm256_set1_epi16(1)); }

// Each byte of x with the sign of the one in `signs`; not for signs of 0, where it may be anything.
inline Ints with_signs(Ints x, Ints signs) {
  return reinterpret_cast<Ints>(_mm256_sign_epi8(reinterpret_cast<__m256i>(x), reinterpret_cast<__m256i>(signs)));
}

inline Ints byte_magnitudes(Ints x) { return reinterpret_cast<Ints>(_mm256_abs_epi8(reinterpret_cast<__m256i>(x))); }

// The low and the high bytes of each int16, sign-extended.
inline Ints low_bytes(Ints x) {
  return reinterpret_cast<Ints>(_mm256_srai_epi16(_mm256_slli_epi16(reinterpret_cast<__m256i>(x), 8), 8));
}
inline Ints high_bytes(Ints x) { return reinterpret_cast<Ints>(_mm256_srai_epi16(reinterpret_cast<__m256i>(x), 8)); }

inline QuantizedBlock quantize_block(const float* a) {
  Floats x[4];
  for (int i = 0; i < 4; ++i) x[i] = load(a + i * kLanes);
  const float largest =
      largest_lane(larger(larger(magnitude(x[0]), magnitude(x[1])), larger(magnitude(x[2]), magnitude(x[3]))));
  const float inverse = largest == 0.0f ? 0.0f : 127.0f / largest;
  for (Floats& values : x) values *= inverse;
  const Ints codes = rounded_to_bytes<false>(x, 0);
  const Ints sums = madd(maddubs(reinterpret_cast<Ints>(_mm256_set1_epi8(1)), codes), ones_in_words());
  return {reinterpret_cast<BlockCodes>(codes), largest / 127.0f, sum_of_lanes(sums)};
}

#if defined(EDGEKILN_HAS_AVXVNNI)
#define EDGEKILN_HAS_DPBUSD

inline Ints dpbusd(Ints sum, Ints bytes, Ints signed_bytes) {
  return reinterpret_cast<Ints>(dpbusd(reinterpret_cast<__m256i>(sum), reinterpret_cast<__m256i>(bytes),
                                       reinterpret_cast<__m256i>(signed_bytes)));
}

#endif

}  // namespace edgekiln::EDGEKILN_ISA
