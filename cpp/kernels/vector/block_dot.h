// Dot product of one weight column with one quantized activation vector, in blocks of 32 along k, each with a scale on
// either side. For every instruction set: VPDPBUSD, VPMADDUBSW, SDOT or scalar.
//
// These instructions multiply unsigned by signed bytes, so weight codes count from 0; the caller corrects for the zero
// points with the sum of each group's activations.
#pragma once

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include <algorithm>

#include "kernels/vector/float16_load.h"

namespace edgekiln::EDGEKILN_ISA {

inline constexpr std::size_t kBlock = 32;

// One token's activations, each block of 32 as scale * code with codes in -127..127.
//
// For 4-bit weights the codes are split by even and odd k, as the low and high nibbles of the weights are. All arrays
// are padded with zeros to whole vectors.
struct QuantizedVector {
  const std::int8_t* codes;  // [k]; for 4 bits [k / 2], of even k
  const std::int8_t* odd;    // for 4 bits [k / 2], of odd k
  const float* scales;       // [blocks, kSumsPerBlock], each block's scale repeated for its int32 sums in a vector
  const float* sums;         // [groups], of scale * code
  const float* float_sums;   // [groups], of the activations before quantization
};

// Lanes of an int32 vector that accumulate one block.
template <int Bits>
inline constexpr std::size_t kSumsPerBlock =
#if defined(__AVX2__)
    Bits == 4 ? 4 : 8;
#else
    1;
#endif

#if defined(__AVX512VNNI__)

// Sum over the blocks of weight scale * activation scale * <weight codes, activation codes>, spread over the lanes; a
// group is 1 << group_shift blocks.
//
// Reads whole vectors, as activations past the last block are zero. `at_end` must be set if memory ends there: masked
// loads are slow.
template <int Bits, typename Scale>
inline Floats block_dot(const std::uint8_t* codes, const Scale* scales, const QuantizedVector& a, std::size_t blocks,
                        unsigned group_shift, bool at_end) {
  constexpr std::size_t bytes = kBlock * Bits / 8, step = 64 / bytes;
  const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const __m512i block_of_lane = _mm512_srli_epi32(lane, Bits == 4 ? 2 : 3);
  const __m512i group_of_lane = _mm512_srl_epi32(block_of_lane, _mm_cvtsi32_si128(static_cast<int>(group_shift)));
  const __m512i nibble = _mm512_set1_epi8(0x0f);
  __m512 sum = _mm512_setzero_ps();
  const auto added = [&](__m512 sum, std::size_t block, __m512i v, __m128 groups) {
    __m512i products = _mm512_setzero_si512();
    if constexpr (Bits == 4) {
      const __m512i low = _mm512_and_si512(v, nibble), high = _mm512_and_si512(_mm512_srli_epi16(v, 4), nibble);
      products = _mm512_dpbusd_epi32(products, low, _mm512_loadu_si512(a.codes + block * bytes));
      products = _mm512_dpbusd_epi32(products, high, _mm512_loadu_si512(a.odd + block * bytes));
    } else {
      products = _mm512_dpbusd_epi32(products, v, _mm512_loadu_si512(a.codes + block * bytes));
    }
    const __m512 scale = _mm512_mul_ps(_mm512_permutexvar_ps(group_of_lane, _mm512_castps128_ps512(groups)),
                                       _mm512_loadu_ps(a.scales + block * kSumsPerBlock<Bits>));
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(products), scale, sum);
  };
  if (!at_end) {
    for (std::size_t block = 0; block < blocks; block += step)
      sum = added(sum, block, _mm512_loadu_si512(codes + block * bytes), load_4(scales + (block >> group_shift)));
  } else {
    for (std::size_t block = 0; block < blocks; block += step) {
      const std::size_t left = std::min(blocks - block, step);
      const __mmask64 bytes_left = left == step ? ~__mmask64{0} : (__mmask64{1} << left * bytes) - 1;
      const std::size_t groups_left = ((left - 1) >> group_shift) + 1;
      sum = added(sum, block, _mm512_maskz_loadu_epi8(bytes_left, codes + block * bytes),
                  load_up_to_4(scales + (block >> group_shift), groups_left));
    }
  }
  return reinterpret_cast<Floats>(sum);
}

#elif defined(__AVX2__)

// As above. VPMADDUBSW adds two products in 16 bits, which nibbles never overflow (2 * 15 * 127 < 2^15), so 8-bit codes
// are split into two nibbles.
template <int Bits, typename Scale>
inline Floats block_dot(const std::uint8_t* codes, const Scale* scales, const QuantizedVector& a, std::size_t blocks,
                        unsigned group_shift, bool) {
  constexpr std::size_t bytes = kBlock * Bits / 8, step = 32 / bytes;
  const __m256i nibble = _mm256_set1_epi8(0x0f), ones = _mm256_set1_epi16(1), sixteens = _mm256_set1_epi16(16);
  __m256 sum = _mm256_setzero_ps();
  for (std::size_t block = 0; block < blocks; block += step) {
    const bool whole = block + step <= blocks;
    const __m256i v =
        whole ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + block * bytes))
              : _mm256_zextsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + block * bytes)));
    const __m256i low = _mm256_and_si256(v, nibble), high = _mm256_and_si256(_mm256_srli_epi16(v, 4), nibble);
    const __m256i first = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(a.codes + block * bytes));
    __m256i products;
    float scale[2] = {to_float(scales[block >> group_shift]), 0.0f};
    if constexpr (Bits == 4) {
      const __m256i second = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(a.odd + block * bytes));
      const __m256i pairs = _mm256_add_epi16(_mm256_maddubs_epi16(low, first), _mm256_maddubs_epi16(high, second));
      products = _mm256_madd_epi16(pairs, ones);
      if (whole) scale[1] = to_float(scales[(block + 1) >> group_shift]);
    } else {
      products = _mm256_add_epi32(_mm256_madd_epi16(_mm256_maddubs_epi16(low, first), ones),
                                  _mm256_madd_epi16(_mm256_maddubs_epi16(high, first), sixteens));
      scale[1] = scale[0];
    }
    const __m256 groups = _mm256_set_m128(_mm_set1_ps(scale[1]), _mm_set1_ps(scale[0]));
    const __m256 both = _mm256_mul_ps(groups, _mm256_loadu_ps(a.scales + block * kSumsPerBlock<Bits>));
    sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(products), both, sum);
  }
  Floats result{};
  std::memcpy(&result, &sum, sizeof sum);
  return result;
}

#elif defined(__ARM_FEATURE_DOTPROD)

    // As above, with SDOT, which multiplies signed bytes: 8-bit codes are split into two nibbles.
    template <int Bits, typename Scale>
    inline Floats block_dot(const std::uint8_t* codes, const Scale* scales, const QuantizedVector& a,
                            std::size_t blocks, unsigned group_shift, bool) {
  constexpr std::size_t bytes = kBlock * Bits / 8;
  const auto nibbles = [](const std::uint8_t* from) {
    const uint8x16_t both = vld1q_u8(from);
    return int8x16x2_t{vreinterpretq_s8_u8(vandq_u8(both, vdupq_n_u8(15))), vreinterpretq_s8_u8(vshrq_n_u8(both, 4))};
  };
  Floats sum{};
  for (std::size_t block = 0; block < blocks; ++block) {
    const std::uint8_t* from = codes + block * bytes;
    const std::int8_t* x = a.codes + block * bytes;
    int32x4_t products = vdupq_n_s32(0);
    if constexpr (Bits == 4) {
      const int8x16x2_t both = nibbles(from);
      products = vdotq_s32(vdotq_s32(products, both.val[0], vld1q_s8(x)), both.val[1], vld1q_s8(a.odd + block * bytes));
    } else {
      const int8x16x2_t first = nibbles(from), second = nibbles(from + 16);
      products = vdotq_s32(vdotq_s32(products, first.val[1], vld1q_s8(x)), second.val[1], vld1q_s8(x + 16));
      products = vshlq_n_s32(products, 4);
      products = vdotq_s32(vdotq_s32(products, first.val[0], vld1q_s8(x)), second.val[0], vld1q_s8(x + 16));
    }
    sum += to_floats(reinterpret_cast<Ints>(products)) * (to_float(scales[block >> group_shift]) * a.scales[block]);
  }
  return sum;
}

#else

    template <int Bits, typename Scale>
    inline Floats block_dot(const std::uint8_t* codes, const Scale* scales, const QuantizedVector& a,
                            std::size_t blocks, unsigned group_shift, bool) {
  constexpr std::size_t bytes = kBlock * Bits / 8;
  float sum = 0.0f;
  for (std::size_t block = 0; block < blocks; ++block) {
    std::int32_t products = 0;
    for (std::size_t i = 0; i < bytes; ++i) {
      const std::uint8_t byte = codes[block * bytes + i];
      if constexpr (Bits == 4) {
        products += (byte & 15) * a.codes[block * bytes + i] + (byte >> 4) * a.odd[block * bytes + i];
      } else {
        products += byte * a.codes[block * bytes + i];
      }
    }
    sum += static_cast<float>(products) * to_float(scales[block >> group_shift]) * a.scales[block];
  }
  return Floats{sum};
}

#endif

}  // namespace edgekiln::EDGEKILN_ISA
