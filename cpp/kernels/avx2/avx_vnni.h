// The dot products of AVX-VNNI, or for tests on AVX-512 processors without it the same instructions of AVX512-VNNI.
#pragma once

#include <immintrin.h>

#if defined(__AVXVNNI__) || defined(EDGEKILN_AVXVNNI_EMULATED)
#define EDGEKILN_HAS_AVXVNNI

namespace edgekiln::EDGEKILN_ISA {

#if defined(__AVXVNNI__)

// Adds to each int32 lane of `sum` four products of unsigned by signed bytes.
inline __m256i dpbusd(__m256i sum, __m256i bytes, __m256i signed_bytes) {
  return _mm256_dpbusd_avx_epi32(sum, bytes, signed_bytes);
}

// Adds to each int32 lane of `sum` two products of int16.
inline __m256i dpwssd(__m256i sum, __m256i a, __m256i b) { return _mm256_dpwssd_avx_epi32(sum, a, b); }

#else

// As assembly: the compiler knows the encodings of AVX-512 only together with its registers, which this code must not
// use.
inline __m256i dpbusd(__m256i sum, __m256i bytes, __m256i signed_bytes) {
  asm("vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(bytes), "x"(signed_bytes));
  return sum;
}

inline __m256i dpwssd(__m256i sum, __m256i a, __m256i b) {
  asm("vpdpwssd %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
  return sum;
}

#endif

}  // namespace edgekiln::EDGEKILN_ISA

#endif
