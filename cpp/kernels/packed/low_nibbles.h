// Dot products of the low nibbles of an LM head (pack/packed_lm_head.h), for each instruction set with int8 dot
// products.
//
// Four int32 lanes belong to one block of 32 values of k, whose 16 bytes hold two values each.
#pragma once

#include "kernels/packed/quantized_block.h"
#include "kernels/vector/float16_load.h"
#if defined(__AVX2__)
#include "kernels/avx2/avx_vnni.h"
#endif

namespace edgekiln::EDGEKILN_ISA {

inline constexpr std::size_t kBlocksPerVector = kLanes / 4;

using SignedBytes = std::int8_t __attribute__((vector_size(kLanes * sizeof(std::int32_t))));

// <low, a> + <high, b>, for nibbles and activation codes in -127..127: four products of each in every lane.
inline Ints dot_nibbles(Bytes low, SignedBytes a, Bytes high, SignedBytes b) {
#if defined(__AVX512VNNI__)
  const __m512i sums =
      _mm512_dpbusd_epi32(_mm512_setzero_si512(), reinterpret_cast<__m512i>(low), reinterpret_cast<__m512i>(a));
  return reinterpret_cast<Ints>(
      _mm512_dpbusd_epi32(sums, reinterpret_cast<__m512i>(high), reinterpret_cast<__m512i>(b)));
#elif defined(__AVX512F__)
  // 4 * 15 * 127 < 2^15
  const __m512i pairs =
      _mm512_add_epi16(_mm512_maddubs_epi16(reinterpret_cast<__m512i>(low), reinterpret_cast<__m512i>(a)),
                       _mm512_maddubs_epi16(reinterpret_cast<__m512i>(high), reinterpret_cast<__m512i>(b)));
  return reinterpret_cast<Ints>(_mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
#elif defined(EDGEKILN_HAS_AVXVNNI)
  const __m256i sums = dpbusd(_mm256_setzero_si256(), reinterpret_cast<__m256i>(low), reinterpret_cast<__m256i>(a));
  return reinterpret_cast<Ints>(dpbusd(sums, reinterpret_cast<__m256i>(high), reinterpret_cast<__m256i>(b)));
#elif defined(__AVX2__)
  const __m256i pairs =
      _mm256_add_epi16(_mm256_maddubs_epi16(reinterpret_cast<__m256i>(low), reinterpret_cast<__m256i>(a)),
                       _mm256_maddubs_epi16(reinterpret_cast<__m256i>(high), reinterpret_cast<__m256i>(b)));
  return reinterpret_cast<Ints>(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
#else
  const int32x4_t sums = vdotq_s32(vdupq_n_s32(0), reinterpret_cast<int8x16_t>(low), reinterpret_cast<int8x16_t>(a));
  return reinterpret_cast<Ints>(vdotq_s32(sums, reinterpret_cast<int8x16_t>(high), reinterpret_cast<int8x16_t>(b)));
#endif
}

// The scales of kBlocksPerVector blocks, each in its four lanes.
inline Floats spread_scales(const Float16* scales) {
#if defined(__AVX512F__)
  const __m512i block_of_lane = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
  const __m128 four = _mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(scales)));
  return reinterpret_cast<Floats>(_mm512_permutexvar_ps(block_of_lane, _mm512_castps128_ps512(four)));
#elif defined(__AVX2__)
  std::int32_t two;
  std::memcpy(&two, scales, sizeof two);
  const __m128 both = _mm_cvtph_ps(_mm_cvtsi32_si128(two));
  return reinterpret_cast<Floats>(_mm256_set_m128(_mm_shuffle_ps(both, both, 0x55), _mm_shuffle_ps(both, both, 0x00)));
#else
  return broadcast(to_float(*scales));
#endif
}

}  // namespace edgekiln::EDGEKILN_ISA
