// Requantizes a panel of a packed 4-bit weight to 8 bits with one scale a column for kRequantizeK values of k, in the
// order in which the tile of q4_tile.h reads it.
//
// A group's own scale so costs one table of 16 codes, not one multiplication a weight and token.
#pragma once

#include <algorithm>
#include <type_traits>

#include "kernels/neon/q4_codes.h"
#include "kernels/neon/q4_tile.h"
#include "kernels/vector/float16_load.h"

namespace edgekiln::EDGEKILN_ISA {

// Strips of a panel, each of kStripColumns columns and all of k.
inline constexpr std::size_t kStrips = kPanelWidth / kStripColumns;

namespace detail {

inline constexpr float kSmallestMaximum = 1e-30f;  // keeps the scale of an all-zero column finite

// Of the 16 columns of a group: a weight is scale * code + offset, with zero points scale * code - offset.
struct GroupSteps {
  float32x4_t scale[4], offset[4];
};

inline void load_16(const float* from, float32x4_t (&to)[4]) {
#pragma GCC unroll 4
  for (int quad = 0; quad < 4; ++quad) to[quad] = vld1q_f32(from + 4 * quad);
}

inline void load_16(const Float16* from, float32x4_t (&to)[4]) {
#pragma GCC unroll 2
  for (int half = 0; half < 2; ++half) {
    const float16x8_t eight = vreinterpretq_f16_u16(vld1q_u16(&from[8 * half].bits));
    to[2 * half] = vcvt_f32_f16(vget_low_f16(eight));
    to[2 * half + 1] = vcvt_high_f32_f16(eight);
  }
}

inline void load_16(const std::uint8_t* from, float32x4_t (&to)[4]) {
  const uint8x16_t bytes = vld1q_u8(from);
  const uint16x8_t low = vmovl_u8(vget_low_u8(bytes)), high = vmovl_high_u8(bytes);
  to[0] = vcvtq_f32_u32(vmovl_u16(vget_low_u16(low)));
  to[1] = vcvtq_f32_u32(vmovl_high_u16(low));
  to[2] = vcvtq_f32_u32(vmovl_u16(vget_low_u16(high)));
  to[3] = vcvtq_f32_u32(vmovl_high_u16(high));
}

// Loads a group's steps and updates the largest magnitudes of weights.
template <typename Param, WeightScheme kScheme>
inline void load_steps(const std::uint8_t* params, GroupSteps& steps, float32x4_t (&most)[4]) {
  const auto* scales = reinterpret_cast<const Param*>(params);
  load_16(scales, steps.scale);
  float32x4_t stored[4];
  if constexpr (kScheme == WeightScheme::kZeroPoints) load_16(params + kPanelWidth * sizeof(Param), stored);
  if constexpr (kScheme == WeightScheme::kGroupBias) load_16(scales + kPanelWidth, stored);
#pragma GCC unroll 4
  for (int quad = 0; quad < 4; ++quad) {
    const float32x4_t scale = steps.scale[quad];
    if constexpr (kScheme == WeightScheme::kZeroPoints) {
      steps.offset[quad] = vmulq_f32(scale, stored[quad]);
    } else if constexpr (kScheme == WeightScheme::kGroupBias) {
      steps.offset[quad] = std::is_same_v<Param, Float16> ? stored[quad] : stored[quad] - scale * 8.0f;
    } else {
      steps.offset[quad] = scale * -8.0f;
    }
    const float32x4_t offset = steps.offset[quad];
    most[quad] = vmaxq_f32(most[quad], vabsq_f32(offset));
    if constexpr (kScheme != WeightScheme::kSymmetric)
      most[quad] =
          vmaxq_f32(most[quad], vabdq_f32(offset, scale * (kScheme == WeightScheme::kZeroPoints ? 15.0f : -15.0f)));
  }
}

inline int16x8_t to_int16(float32x4_t low, float32x4_t high) {
  return vuzp1q_s16(vreinterpretq_s16_s32(vcvtnq_s32_f32(low)), vreinterpretq_s16_s32(vcvtnq_s32_f32(high)));
}

}  // namespace detail

// The weights of a panel as scale * code: codes [kStrips, k, kStripColumns] in the order of q4_tile.h, scales
// [kStrips, spans, kColumnScales].
template <typename Param, WeightScheme kScheme>
void requantize(const PackedNBits& weight, std::size_t panel, std::int8_t* to, float* scales) {
  using namespace detail;
  const std::size_t block_bytes = weight.block_bytes(), codes_bytes = weight.codes_bytes();
  const std::size_t group_size = weight.group_size, groups_per_scale = kRequantizeK / group_size;
  const std::size_t stride = weight.k * kStripColumns;
  const std::size_t scales_stride = (weight.k + kSpanK - 1) / kSpanK * kColumnScales;
  const std::uint8_t* block = weight.panel(panel);
  CodeConstants constants;
  for (std::size_t first = 0; first < weight.groups(); first += groups_per_scale, scales += kColumnScales) {
    const std::size_t groups = std::min(groups_per_scale, weight.groups() - first);
    float32x4_t most[4];
#pragma GCC unroll 4
    for (float32x4_t& quad : most) quad = vdupq_n_f32(kSmallestMaximum);
    GroupSteps steps[kRequantizeK / 32];
    for (std::size_t group = 0; group < groups; ++group)
      load_steps<Param, kScheme>(block + group * block_bytes + codes_bytes, steps[group], most);
    float32x4_t inverse[4];
#pragma GCC unroll 4
    for (int quad = 0; quad < 4; ++quad) {
      const float32x4_t scale = most[quad] / 127.0f;
      store_column_scales(scales + quad * scales_stride, scale);
      inverse[quad] = 256.0f / scale;
    }
    for (std::size_t group = 0; group < groups; ++group, block += block_bytes, to += group_size * kStripColumns) {
      const GroupSteps& step = steps[group];
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) {
        const float32x4_t a = inverse[2 * half], b = inverse[2 * half + 1];
        const int16x8_t factors = to_int16(step.scale[2 * half] * a, step.scale[2 * half + 1] * b);
        const int16x8_t offsets = to_int16(step.offset[2 * half] * a, step.offset[2 * half + 1] * b);
        const int16x8_t rounding = vdupq_n_s16(128);
        const int16x8_t starts =
            kScheme == WeightScheme::kZeroPoints ? vsubq_s16(rounding, offsets) : vaddq_s16(rounding, offsets);
        std::int8_t* const left = to + 2 * half * stride;
        requantize_codes(block + 32 * half, group_size, factors, starts, constants, left, left + stride);
      }
    }
  }
}

}  // namespace edgekiln::EDGEKILN_ISA
