// Fixed-width float vectors on the compiler's vector extension, so that one source serves every instruction set.
//
// A file that includes this is compiled once for each instruction set with EDGEKILN_ISA naming its namespace; the
// widest register the flags allow decides the lane count.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#ifndef EDGEKILN_ISA
#error "EDGEKILN_ISA must name the instruction set this file is compiled for"
#endif

namespace edgekiln::EDGEKILN_ISA {

#if defined(__AVX512F__)
inline constexpr int kLanes = 16;
#elif defined(__AVX2__)
inline constexpr int kLanes = 8;
#else
inline constexpr int kLanes = 4;
#endif

using Floats = float __attribute__((vector_size(kLanes * sizeof(float))));
using Ints = std::int32_t __attribute__((vector_size(kLanes * sizeof(std::int32_t))));

inline Floats load(const float* from) {
  Floats value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

inline void store(float* to, Floats value) { std::memcpy(to, &value, sizeof value); }

inline Floats broadcast(float value) { return value - Floats{}; }

inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }

inline float largest_lane(Floats value) {
  float result = value[0];
  for (int lane = 1; lane < kLanes; ++lane) result = value[lane] > result ? value[lane] : result;
  return result;
}

inline float sum_of_lanes(Floats value) {
  float result = value[0];
  for (int lane = 1; lane < kLanes; ++lane) result += value[lane];
  return result;
}

// e^x for x <= 0, to within 2 units in the last place; 0 where e^x is below the normal floats.
//
// x = n ln 2 + r with |r| <= ln 2 / 2 in two parts of ln 2 (Cody and Waite), then the Taylor polynomial of e^r to the
// sixth power, whose remainder is below 2^-24 there.
inline Floats exp_of_negative(Floats x) {
  const Floats lowest = broadcast(-87.0f);
  const Floats clamped = larger(x, lowest);
  // Adding and taking away 1.5 * 2^23 rounds to the nearest whole number.
  const float round = 12582912.0f;
  const Floats n = (clamped * 1.44269504f + round) - round;
  Floats r = clamped - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  Floats p = broadcast(1.0f / 720);
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const Ints bits = (__builtin_convertvector(n, Ints) + 127) << 23;
  Floats power;
  std::memcpy(&power, &bits, sizeof power);
  return x < lowest ? Floats{} : p * power;
}

// tanh, from e^-2|x|.
inline Floats tanh_of(Floats x) {
  const Floats size = x < 0.0f ? -x : x;
  const Floats e = exp_of_negative(size * -2.0f);
  const Floats t = (1.0f - e) / (1.0f + e);
  return x < 0.0f ? -t : t;
}

namespace detail {

// In groups of 2 * Half lanes: the first half of each group of `a` folded onto its second, then the same of `b`.
template <int Half, int... Lane>
inline Floats fold(Floats a, Floats b, std::integer_sequence<int, Lane...>) {
  constexpr auto first = [](int lane) {
    const int group = lane / (2 * Half), within = lane % (2 * Half);
    return (within < Half ? 0 : kLanes) + group * 2 * Half + within % Half;
  };
  return __builtin_shufflevector(a, b, first(Lane)...) + __builtin_shufflevector(a, b, (first(Lane) + Half)...);
}

template <int Count>
inline void fold_all(Floats* rows) {
  if constexpr (Count > 1) {
    constexpr int half = Count / 2;
    for (int i = 0; i < half; ++i) {
      rows[i] = fold<half>(rows[i], rows[i + half], std::make_integer_sequence<int, kLanes>{});
    }
    fold_all<half>(rows);
  }
}

}  // namespace detail

// The sum of each of kLanes vectors, lane i that of rows[i]; overwrites rows.
inline Floats sums(Floats* rows) {
  detail::fold_all<kLanes>(rows);
  return rows[0];
}

}  // namespace edgekiln::EDGEKILN_ISA
