// bfloat16 in pairs, as VDPBF16PS and TDPBF16PS take them: two neighbouring values of k in one 32-bit lane, multiplied
// with another pair and added to a float accumulator. For AVX512-BF16.
#pragma once

#include "kernels/vector/vector.h"

namespace edgekiln::EDGEKILN_ISA {

struct Bf16Pair {
  std::uint32_t bits;  // the first value is the lower half
};

using Bf16Pairs = __m512bh;

inline Bf16Pairs load(const Bf16Pair* from) {
  Bf16Pairs value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

inline Bf16Pairs broadcast(Bf16Pair pair) {
  return reinterpret_cast<Bf16Pairs>(_mm512_set1_epi32(static_cast<int>(pair.bits)));
}

// sum + a * b, both products of each lane's pairs.
inline Floats added(Floats sum, Bf16Pairs a, Bf16Pairs b) {
  return reinterpret_cast<Floats>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(sum), a, b));
}

// to[count / 2] = from[count] rounded to bfloat16, `count` a multiple of 2 * kLanes; in place if `to` is `from`.
inline void to_bf16(const float* from, std::size_t count, Bf16Pair* to) {
  for (std::size_t i = 0; i < count; i += 2 * kLanes) {
    const Bf16Pairs both = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(from + i + kLanes), _mm512_loadu_ps(from + i));
    std::memcpy(to + i / 2, &both, sizeof both);
  }
}

// to[n] = pairs (first[j], second[j]), rounded to bfloat16; zeros for a `second` that is null. `n` is a multiple of
// kLanes.
inline void interleave_bf16(const float* first, const float* second, std::size_t n, Bf16Pair* to) {
  const auto rounded = [](const float* from) {
    return _mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(_mm512_loadu_ps(from))));
  };
  for (std::size_t i = 0; i < n; i += kLanes) {
    __m512i both = rounded(first + i);
    if (second) both = _mm512_or_si512(both, _mm512_slli_epi32(rounded(second + i), 16));
    std::memcpy(to + i, &both, sizeof both);
  }
}

}  // namespace edgekiln::EDGEKILN_ISA
