// Loads of scales and biases that are stored as float or, where the processor converts it (F16C, NEON), as float16.
#pragma once

#if defined(__F16C__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "kernels/common/float16.h"
#include "kernels/vector/vector.h"

namespace edgekiln::EDGEKILN_ISA {

inline float to_float(float value) { return value; }

#if defined(__F16C__)

inline constexpr bool kLoadsFloat16 = true;

inline float to_float(Float16 value) { return _cvtsh_ss(value.bits); }

inline Floats load(const Float16* from) {
#if defined(__AVX512F__)
  return reinterpret_cast<Floats>(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))));
#else
  return reinterpret_cast<Floats>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
#endif
}

#elif defined(__aarch64__)

inline constexpr bool kLoadsFloat16 = true;

inline Floats load(const Float16* from) {
  return reinterpret_cast<Floats>(vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(&from->bits))));
}

inline float to_float(Float16 value) {
  return vgetq_lane_f32(vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(value.bits))), 0);
}

#else

inline constexpr bool kLoadsFloat16 = false;

#endif

#if defined(__AVX512VNNI__)

inline __m128 load_4(const float* from) { return _mm_loadu_ps(from); }
inline __m128 load_4(const Float16* from) {
  return _mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
}

// `count` of four values. Reads no float past them; the other lanes are zero or, of float16, the padding's.
inline __m128 load_up_to_4(const float* from, std::size_t count) {
  return _mm_maskz_loadu_ps(static_cast<__mmask8>((1u << count) - 1), from);
}
inline __m128 load_up_to_4(const Float16* from, std::size_t) { return load_4(from); }

#endif

}  // namespace edgekiln::EDGEKILN_ISA
