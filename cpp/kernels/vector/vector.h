// Float vectors on the compiler's vector extension, so that one source serves every instruction set.
//
// Files that include this are compiled once for each instruction set, with EDGEKILN_ISA as their namespace. The widest
// vector register that the compiler flags allow determines kLanes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

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

// kLanes int8 values as floats. With intrinsics: GCC 12 converts the elements of such vectors one by one.
inline Floats load(const std::int8_t* from) {
#if defined(__AVX512F__)
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
#elif defined(__AVX2__)
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
#else
  using Bytes = std::int8_t __attribute__((vector_size(kLanes)));
  Bytes bytes;
  std::memcpy(&bytes, from, sizeof bytes);
  return __builtin_convertvector(__builtin_convertvector(bytes, Ints), Floats);
#endif
}

// kLanes uint8 values as floats.
inline Floats load(const std::uint8_t* from) {
#if defined(__AVX512F__)
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
#elif defined(__AVX2__)
  return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
#else
  using Bytes = std::uint8_t __attribute__((vector_size(kLanes)));
  Bytes bytes;
  std::memcpy(&bytes, from, sizeof bytes);
  return __builtin_convertvector(__builtin_convertvector(bytes, Ints), Floats);
#endif
}

inline void store(float* to, Floats value) { std::memcpy(to, &value, sizeof value); }

inline Floats broadcast(float value) { return value - Floats{}; }

// sum + a * b, rounded once where the processor has fused multiply-adds, which all instruction sets but "portable" on
// x86 do. Explicit, as it decides the bits: whether a compiler contracts an expression depends on the code around it.
inline Floats added(Floats sum, Floats a, Floats b) {
#if defined(__AVX512F__)
  return reinterpret_cast<Floats>(_mm512_fmadd_ps(a, b, sum));
#elif defined(__FMA__)
  return reinterpret_cast<Floats>(_mm256_fmadd_ps(a, b, sum));
#elif defined(__aarch64__)
  return reinterpret_cast<Floats>(vfmaq_f32(sum, a, b));
#else
  return sum + a * b;
#endif
}

inline float added(float sum, float a, float b) {
#if defined(__FMA__) || defined(__aarch64__)
  return __builtin_fmaf(a, b, sum);
#else
  return sum + a * b;  // without the instruction, fmaf() is a function of many
#endif
}

// sum - a * b, likewise.
inline Floats subtracted(Floats sum, Floats a, Floats b) { return added(sum, -a, b); }
inline float subtracted(float sum, float a, float b) { return added(sum, -a, b); }

inline Floats plus(Floats a, Floats b) { return a + b; }

inline Floats magnitude(Floats x) { return reinterpret_cast<Floats>(reinterpret_cast<Ints>(x) & 0x7fffffff); }

// a > b ? a : b, which is MAXPS; on Arm NaN where either is. With intrinsics: GCC 12 makes a comparison and a masked
// load of it.
inline Floats larger(Floats a, Floats b) {
#if defined(__AVX512F__)
  return reinterpret_cast<Floats>(_mm512_max_ps(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b)));
#elif defined(__AVX2__)
  return reinterpret_cast<Floats>(_mm256_max_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b)));
#elif defined(__aarch64__)
  return reinterpret_cast<Floats>(vmaxq_f32(a, b));
#else
  return a > b ? a : b;
#endif
}

// a < b ? a : b, likewise.
inline Floats smaller(Floats a, Floats b) {
#if defined(__AVX512F__)
  return reinterpret_cast<Floats>(_mm512_min_ps(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b)));
#elif defined(__AVX2__)
  return reinterpret_cast<Floats>(_mm256_min_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b)));
#elif defined(__aarch64__)
  return reinterpret_cast<Floats>(vminq_f32(a, b));
#else
  return a < b ? a : b;
#endif
}

namespace detail {

template <int... Lane>
inline Ints lane_indices(std::integer_sequence<int, Lane...>) {
  return Ints{Lane...};
}

// Swaps each lane i with lane i ^ Distance.
template <int Distance, typename Vector, int... Lane>
inline Vector swapped(Vector x, std::integer_sequence<int, Lane...>) {
  return __builtin_shufflevector(x, x, (Lane ^ Distance)...);
}

// Reduces all lanes with `combine`, in log2(kLanes) steps; every lane gets the result.
template <int Distance, typename Vector, typename Combine>
inline Vector reduce(Vector x, const Combine& combine) {
  if constexpr (Distance == 0) {
    return x;
  } else {
    x = combine(x, swapped<Distance>(x, std::make_integer_sequence<int, kLanes>{}));
    return reduce<Distance / 2>(x, combine);
  }
}

}  // namespace detail

// The first `count` lanes of `value`, the other lanes of `rest`.
inline Floats first_lanes(Floats value, std::size_t count, Floats rest) {
  const Ints lane = detail::lane_indices(std::make_integer_sequence<int, kLanes>{});
  return lane < static_cast<std::int32_t>(count) ? value : rest;
}

inline float largest_lane(Floats value) { return detail::reduce<kLanes / 2>(value, larger)[0]; }

inline float sum_of_lanes(Floats value) { return detail::reduce<kLanes / 2>(value, plus)[0]; }

inline std::int32_t sum_of_lanes(Ints value) {
  return detail::reduce<kLanes / 2>(value, [](Ints a, Ints b) { return a + b; })[0];
}

// Rounds to the nearest integer, ties to even; |x| < 2^22.
inline Floats nearest(Floats x) {
  // At 1.5 * 2^23 a float has no fraction bits.
  const float round = 12582912.0f;
  return (x + round) - round;
}

// Rounds to the nearest integers, ties to even; |x| < 2^22. Unlike nearest(), it never becomes part of a fused
// multiply-add with the product that it rounds.
inline Ints to_ints(Floats x) {
#if defined(__AVX512F__)
  return reinterpret_cast<Ints>(_mm512_cvtps_epi32(x));
#elif defined(__AVX2__)
  return reinterpret_cast<Ints>(_mm256_cvtps_epi32(x));
#elif defined(__x86_64__)
  return reinterpret_cast<Ints>(_mm_cvtps_epi32(x));
#elif defined(__aarch64__)
  return reinterpret_cast<Ints>(vcvtnq_s32_f32(x));
#else
  return __builtin_convertvector(nearest(x), Ints);
#endif
}

inline Floats to_floats(Ints x) { return __builtin_convertvector(x, Floats); }

// Rounds kLanes floats to int8, saturating.
inline void store(std::int8_t* to, Floats value) {
  using Bytes = std::int8_t __attribute__((vector_size(kLanes)));
  const Floats low = broadcast(-128.0f), high = broadcast(127.0f);
  const Floats clamped = value < low ? low : (value > high ? high : value);
  const Bytes bytes = __builtin_convertvector(__builtin_convertvector(nearest(clamped), Ints), Bytes);
  std::memcpy(to, &bytes, sizeof bytes);
}

namespace detail {

// One step of reducing two vectors into one. In each group of 2 * Half lanes, the lower half of the result combines the
// two halves of `a`'s group, the upper half those of `b`'s. The lanes that keep their places need a blend only, which
// is cheaper than a permutation.
template <int Half, typename Vector, typename Combine, int... Lane>
inline Vector fold(Vector a, Vector b, const Combine& combine, std::integer_sequence<int, Lane...>) {
#if defined(__AVX2__) && !defined(__AVX512F__)
  // GCC 12 finds no blends.
  const auto x = reinterpret_cast<__m256>(a), y = reinterpret_cast<__m256>(b);
  if constexpr (Half == 4)
    return combine(reinterpret_cast<Vector>(_mm256_blend_ps(x, y, 0xf0)),
                   reinterpret_cast<Vector>(_mm256_permute2f128_ps(x, y, 0x21)));
  if constexpr (Half == 2)
    return combine(reinterpret_cast<Vector>(_mm256_blend_ps(x, y, 0xcc)),
                   reinterpret_cast<Vector>(_mm256_shuffle_ps(x, y, 0x4e)));
  return combine(reinterpret_cast<Vector>(_mm256_blend_ps(x, y, 0xaa)),
                 reinterpret_cast<Vector>(_mm256_permute_ps(_mm256_blend_ps(x, y, 0x55), 0xb1)));
#endif
  constexpr auto kept = [](int lane) { return lane % (2 * Half) < Half ? lane : kLanes + lane; };
  constexpr auto moved = [](int lane) { return lane % (2 * Half) < Half ? lane + Half : kLanes + lane - Half; };
  return combine(__builtin_shufflevector(a, b, kept(Lane)...), __builtin_shufflevector(a, b, moved(Lane)...));
}

template <int Count, typename Vector, typename Combine>
inline void fold_all(Vector* rows, const Combine& combine) {
  if constexpr (Count > 1) {
    constexpr int half = Count / 2;
    for (int i = 0; i < half; ++i) {
      rows[i] = fold<half>(rows[i], rows[i + half], combine, std::make_integer_sequence<int, kLanes>{});
    }
    fold_all<half>(rows, combine);
  }
}

}  // namespace detail

// The horizontal sums of kLanes vectors of Floats or Ints: lane i is the sum of rows[i]. Overwrites rows.
template <typename Vector>
inline Vector sums(Vector* rows) {
  detail::fold_all<kLanes>(rows, [](Vector a, Vector b) { return a + b; });
  return rows[0];
}

// The horizontal maxima: lane i is the maximum of rows[i]. Overwrites rows.
inline Floats largest_lanes(Floats* rows) {
  detail::fold_all<kLanes>(rows, larger);
  return rows[0];
}

}  // namespace edgekiln::EDGEKILN_ISA
