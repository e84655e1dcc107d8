// Scales in memory as float or, where the processor converts it, as binary16.
#pragma once

#if defined(__F16C__)
#include <immintrin.h>
#endif

#include "kernels/float16.h"
#include "kernels/vector.h"

namespace edgekiln::EDGEKILN_ISA {

inline float number(float value) { return value; }

#if defined(__F16C__)

inline constexpr bool kReadsHalf = true;

inline float number(Half value) { return _cvtsh_ss(value.bits); }

inline Floats load(const Half* from) {
#if defined(__AVX512F__)
  return reinterpret_cast<Floats>(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))));
#else
  return reinterpret_cast<Floats>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
#endif
}

#else

inline constexpr bool kReadsHalf = false;

#endif

#if defined(__AVX512VNNI__)

inline __m128 four(const float* from) { return _mm_loadu_ps(from); }
inline __m128 four(const Half* from) { return _mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))); }

// Reads no float past `count`; the others are zero or, in binary16, padding.
inline __m128 up_to_four(const float* from, std::size_t count) {
  return _mm_maskz_loadu_ps(static_cast<__mmask8>((1u << count) - 1), from);
}
inline __m128 up_to_four(const Half* from, std::size_t) { return four(from); }

#endif

}  // namespace edgekiln::EDGEKILN_ISA
