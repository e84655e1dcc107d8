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
  for (std::size_t i = 0; i < count; i += 16)
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) most[j] = vmaxq_f32(most[j], vabsq_f32(vld1q_f32(a + i + 4 * j)));
  return vmaxvq_f32(vmaxq_f32(vmaxq_f32(most[0], most[1]), vmaxq_f32(most[2], most[3])));
}

// The codes of a[16], rounded to the nearest integer with ties to even. |a * inverse| <= 127.
inline int8x16_t quantize_16(const float* a, float inverse) {
  int16x8_t codes[4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j)
    codes[j] = vreinterpretq_s16_s32(vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(a + 4 * j), inverse)));
  const int16x8_t low = vuzp1q_s16(codes[0], codes[1]), high = vuzp1q_s16(codes[2], codes[3]);
  return vuzp1q_s8(vreinterpretq_s8_s16(low), vreinterpretq_s8_s16(high));
}

// Of each eight codes the even and then the odd ones, as the nibbles of packed 4-bit weights are.
inline int8x16_t even_then_odd(int8x16_t codes) {
  static constexpr std::uint8_t kOrder[16] = {0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15};
  return vqtbl1q_s8(codes, vld1q_u8(kOrder));
}

}  // namespace edgekiln::EDGEKILN_ISA
