// Pairs of bfloat16 numbers, which one instruction multiplies and adds to a float.
#pragma once

#include "kernels/vector.h"

#if defined(__AVX512BF16__)

namespace edgekiln::EDGEKILN_ISA {

struct Pair {
  std::uint32_t bits;  // the first number is the lower half
};

using Pairs = __m512bh;

inline Pairs load(const Pair* from) {
  Pairs value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

inline Pairs broadcast(Pair pair) { return reinterpret_cast<Pairs>(_mm512_set1_epi32(static_cast<int>(pair.bits))); }

// Each lane of the sum plus both products of the pairs there.
inline Floats added(Floats sum, Pairs a, Pairs b) {
  return reinterpret_cast<Floats>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(sum), a, b));
}

// to[count / 2] = from[count] rounded, `count` a multiple of 2 * kLanes; `to` may be where `from` is.
inline void to_pairs(const float* from, std::size_t count, Pair* to) {
  for (std::size_t i = 0; i < count; i += 2 * kLanes) {
    const Pairs both = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(from + i + kLanes), _mm512_loadu_ps(from + i));
    std::memcpy(to + i / 2, &both, sizeof both);
  }
}

// to[columns] = the numbers of two rows beside each other, rounded; zeros for a second row that is null. `columns` is a
// multiple of kLanes.
inline void pair_rows(const float* first, const float* second, std::size_t columns, Pair* to) {
  const auto rounded = [](const float* from) {
    return _mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(_mm512_loadu_ps(from))));
  };
  for (std::size_t i = 0; i < columns; i += kLanes) {
    __m512i both = rounded(first + i);
    if (second) both = _mm512_or_si512(both, _mm512_slli_epi32(rounded(second + i), 16));
    std::memcpy(to + i, &both, sizeof both);
  }
}

}  // namespace edgekiln::EDGEKILN_ISA

#endif
