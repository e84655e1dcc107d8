// Searching floats for those that are at least some value. For every instruction set.
#pragma once

#include "kernels/vector/vector.h"

namespace edgekiln::EDGEKILN_ISA {
namespace detail {

// Bit i is set where lane i is not zero; lanes are 0 or -1.
inline unsigned lane_bits(Ints mask) {
#if defined(__AVX512F__)
  return _mm512_movepi32_mask(reinterpret_cast<__m512i>(mask));
#elif defined(__AVX2__)
  return static_cast<unsigned>(_mm256_movemask_ps(reinterpret_cast<__m256>(mask)));
#elif defined(__x86_64__)
  return static_cast<unsigned>(_mm_movemask_ps(reinterpret_cast<__m128>(mask)));
#elif defined(__aarch64__)
  const uint32x4_t bits = {1, 2, 4, 8};
  return vaddvq_u32(vandq_u32(reinterpret_cast<uint32x4_t>(mask), bits));
#else
  unsigned bits = 0;
  for (int i = 0; i < kLanes; ++i) bits |= (mask[i] & 1u) << i;
  return bits;
#endif
}

}  // namespace detail

// The largest of values[count], which are no NaN.
inline float max_of(const float* values, std::size_t count, float smallest) {
  constexpr std::size_t kFour = 4 * kLanes;
  Floats most[4] = {broadcast(smallest), broadcast(smallest), broadcast(smallest), broadcast(smallest)};
  std::size_t i = 0;
  for (; i + kFour <= count; i += kFour)
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) most[j] = larger(most[j], load(values + i + j * kLanes));
  float result = largest_lane(larger(larger(most[0], most[1]), larger(most[2], most[3])));
  for (; i < count; ++i) result = values[i] > result ? values[i] : result;
  return result;
}

// Writes `first` + i for each values[i] >= least, in order, and returns how many. Overwrites up to kLanes indices past
// them.
inline std::size_t indices_of(const float* values, std::size_t count, float least, std::size_t first,
                              std::int32_t* indices) {
  constexpr std::size_t kFour = 4 * kLanes;
  std::size_t found = 0, i = 0;
  for (; i + kFour <= count; i += kFour) {
    Ints match[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) match[j] = load(values + i + j * kLanes) >= broadcast(least);
    if (!detail::lane_bits((match[0] | match[1]) | (match[2] | match[3]))) continue;
    for (int j = 0; j < 4; ++j) {
      const std::size_t index = first + i + j * kLanes;
      unsigned bits = detail::lane_bits(match[j]);
#if defined(__AVX512F__)
      const Ints lanes = detail::lane_indices(std::make_integer_sequence<int, kLanes>{});
      const auto all = reinterpret_cast<__m512i>(lanes + static_cast<std::int32_t>(index));
      _mm512_storeu_si512(indices + found, _mm512_maskz_compress_epi32(static_cast<__mmask16>(bits), all));
      found += static_cast<std::size_t>(__builtin_popcount(bits));
#else
      for (; bits; bits &= bits - 1) indices[found++] = static_cast<std::int32_t>(index) + __builtin_ctz(bits);
#endif
    }
  }
  for (; i < count; ++i)
    if (values[i] >= least) indices[found++] = static_cast<std::int32_t>(first + i);
  return found;
}

}  // namespace edgekiln::EDGEKILN_ISA
