// Activations quantized to int8. For NEON.
#pragma once

#include <arm_neon.h>

#include <cstddef>
#include <cstdint>

#include "kernels/packed/quantized_block.h"

namespace edgekiln::EDGEKILN_ISA {

// The largest magnitude of a[count]; count is a multiple of 16.
inline float largest_magnitude(const float* a, std::size_t count) {
  float32x4_t most[4] = {};
  const auto add_16 = [&](const float* from) {
    const float32x4x4_t x = vld1q_f32_x4(from);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) most[j] = vmaxq_f32(most[j], vabsq_f32(x.val[j]));
  };
  const float* const end = a + count;
  for (const float* const first = a + count % 64; a != first; a += 16) add_16(a);
#pragma GCC unroll 4
  for (; a != end; a += 16) add_16(a);
  return vmaxvq_f32(vmaxq_f32(vmaxq_f32(most[0], most[1]), vmaxq_f32(most[2], most[3])));
}

namespace detail {

inline int8x16_t narrowed(const int32x4_t (&codes)[4]) {
  const int16x8_t low = vuzp1q_s16(vreinterpretq_s16_s32(codes[0]), vreinterpretq_s16_s32(codes[1]));
  const int16x8_t high = vuzp1q_s16(vreinterpretq_s16_s32(codes[2]), vreinterpretq_s16_s32(codes[3]));
  return vuzp1q_s8(vreinterpretq_s8_s16(low), vreinterpretq_s8_s16(high));
}

}  // namespace detail

// The codes of a[16], rounded to the nearest integer with ties to even. |a * inverse| <= 127.
inline int8x16_t quantize_16(const float* a, float inverse) {
  const float32x4x4_t x = vld1q_f32_x4(a);
  int32x4_t codes[4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) codes[j] = vcvtnq_s32_f32(vmulq_n_f32(x.val[j], inverse));
  return detail::narrowed(codes);
}

// The codes of a[64] for the scale that is returned, 1 / 127 of the largest magnitude.
[[gnu::always_inline]] inline float quantize_64(const float* a, int8x16_t (&codes)[4]) {
  float32x4_t x[16], most[4];
#pragma GCC unroll 16
  for (int j = 0; j < 16; ++j) x[j] = vld1q_f32(a + 4 * j);
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j)
    most[j] = vmaxq_f32(vmaxq_f32(vabsq_f32(x[4 * j]), vabsq_f32(x[4 * j + 1])),
                        vmaxq_f32(vabsq_f32(x[4 * j + 2]), vabsq_f32(x[4 * j + 3])));
  const float largest = vmaxvq_f32(vmaxq_f32(vmaxq_f32(most[0], most[1]), vmaxq_f32(most[2], most[3])));
  const float inverse = largest == 0.0f ? 0.0f : 127.0f / largest;
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const int32x4_t four[4] = {
        vcvtnq_s32_f32(vmulq_n_f32(x[4 * j], inverse)), vcvtnq_s32_f32(vmulq_n_f32(x[4 * j + 1], inverse)),
        vcvtnq_s32_f32(vmulq_n_f32(x[4 * j + 2], inverse)), vcvtnq_s32_f32(vmulq_n_f32(x[4 * j + 3], inverse))};
    codes[j] = detail::narrowed(four);
  }
  return largest / 127.0f;
}

}  // namespace edgekiln::EDGEKILN_ISA
