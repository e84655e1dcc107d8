// Requantizes a panel of a packed 4-bit weight to 8 bits with one scale a column for kRequantizeK values of k, in the
// order in which the tile of q4_tile.h reads it.
//
// A group's own scale so costs one table of 16 codes, not one multiplication a weight and token.
#pragma once

#include <algorithm>
#include <type_traits>

#include "kernels/neon/float16_convert.h"
#include "kernels/neon/q4_codes.h"
#include "kernels/neon/q4_tile.h"
#include "kernels/packed/quantized_block.h"
#include "kernels/vector/float16_load.h"

namespace edgekiln::EDGEKILN_ISA {

// Strips of a panel, each of kStripColumns columns and all of k.
inline constexpr std::size_t kStrips = kPanelWidth / kStripColumns;

namespace detail {

inline constexpr float kSmallestMaximum = 1e-30f;  // keeps the scale of an all-zero column finite

inline void load_16(const float* from, float32x4_t (&to)[4]) {
#pragma GCC unroll 4
  for (int quad = 0; quad < 4; ++quad) to[quad] = vld1q_f32(from + 4 * quad);
}

inline void load_16(const Float16* from, float32x4_t (&to)[4]) {
  floats_of_float16(vld1q_u16(&from->bits), vld1q_u16(&from[8].bits), to);
}

inline void load_16(const std::uint8_t* from, float32x4_t (&to)[4]) {
  const uint8x16_t bytes = vld1q_u8(from);
  const uint16x8_t low = vmovl_u8(vget_low_u8(bytes)), high = vmovl_high_u8(bytes);
  to[0] = vcvtq_f32_u32(vmovl_u16(vget_low_u16(low)));
  to[1] = vcvtq_f32_u32(vmovl_high_u16(low));
  to[2] = vcvtq_f32_u32(vmovl_u16(vget_low_u16(high)));
  to[3] = vcvtq_f32_u32(vmovl_high_u16(high));
}

// Loads the steps of a group's 16 columns and updates the largest magnitudes of weights. `largest` is that of a
// codebook.
template <typename Param, WeightScheme kScheme>
inline void load_steps(const std::uint8_t* params, float largest, EightSteps (&steps)[2], float32x4_t (&most)[4]) {
  const auto* scales = reinterpret_cast<const Param*>(params);
  float32x4_t loaded[4], stored[4];
  if constexpr (std::is_same_v<Param, Float16> && kScheme == WeightScheme::kGroupBias) {
    const uint16x8x4_t all = vld1q_u16_x4(&scales->bits);
    floats_of_float16(all.val[0], all.val[1], loaded);
    floats_of_float16(all.val[2], all.val[3], stored);
  } else {
    load_16(scales, loaded);
    if constexpr (kScheme == WeightScheme::kZeroPoints) load_16(params + kPanelWidth * sizeof(Param), stored);
    if constexpr (kScheme == WeightScheme::kGroupBias) load_16(scales + kPanelWidth, stored);
  }
#pragma GCC unroll 4
  for (int quad = 0; quad < 4; ++quad) {
    const float32x4_t scale = loaded[quad];
    float32x4_t min;
    if constexpr (kScheme == WeightScheme::kZeroPoints) {
      min = vnegq_f32(scale * stored[quad]);
    } else if constexpr (kScheme == WeightScheme::kGroupBias) {
      min = std::is_same_v<Param, Float16> ? stored[quad] : stored[quad] - scale * 8.0f;
    } else if constexpr (kScheme == WeightScheme::kCodebook) {
      min = vdupq_n_f32(0.0f);
    } else {
      min = scale * -8.0f;
    }
    most[quad] = vmaxq_f32(most[quad], vabsq_f32(kScheme == WeightScheme::kCodebook ? scale * largest : min));
    if constexpr (kScheme == WeightScheme::kZeroPoints || kScheme == WeightScheme::kGroupBias)
      most[quad] = vmaxq_f32(most[quad], vabdq_f32(min, scale * -15.0f));
    steps[quad / 2].scale[quad % 2] = scale;
    steps[quad / 2].min[quad % 2] = min;
  }
}

}  // namespace detail

// The weights of a panel as scale * code: codes [kStrips, padded k, kStripColumns] in the order of q4_tile.h, scales
// [kStrips, spans, kColumnScales]. kGroup is the group size, or 0 for any.
template <typename Param, WeightScheme kScheme, std::size_t kGroup>
void requantize(const PackedNBits& weight, std::size_t panel, std::int8_t* to, float* scales) {
  using namespace detail;
  const std::size_t block_bytes = weight.block_bytes(), group_size = kGroup ? kGroup : weight.group_size;
  const std::size_t codes_bytes = group_size * kPanelWidth / 2, groups_per_scale = kRequantizeK / group_size;
  const std::size_t scales_stride = (weight.k + kSpanK - 1) / kSpanK * kColumnScales;
  const std::uint8_t* block = weight.panel(panel);
  const std::size_t stride = padded_to_chunks(weight.k) * kStripColumns;
  std::int8_t* strips[kStrips] = {to, to + stride, to + 2 * stride, to + 3 * stride};
  CodeConstants constants(weight);
  const auto largest = static_cast<float>(weight.largest_of_codebook());
  for (std::size_t first = 0; first < weight.groups(); first += groups_per_scale, scales += kColumnScales) {
    const std::size_t groups = std::min(groups_per_scale, weight.groups() - first);
    float32x4_t most[4];
#pragma GCC unroll 4
    for (float32x4_t& quad : most) quad = vdupq_n_f32(kSmallestMaximum);
    EightSteps steps[kRequantizeK / 32][2];
    for (std::size_t group = 0; group < groups; ++group)
      load_steps<Param, kScheme>(block + group * block_bytes + codes_bytes, largest, steps[group], most);
    float32x4_t inverse[2][2];
#pragma GCC unroll 4
    for (int quad = 0; quad < 4; ++quad) {
      const float32x4_t scale = most[quad] / 127.0f;
      store_column_scales(scales + quad * scales_stride, scale);
      inverse[quad / 2][quad % 2] = 256.0f / scale;
    }
    for (std::size_t group = 0; group < groups; ++group, block += block_bytes) {
      const std::uint8_t* codes = block;
      requantize_codes<kGroup != kBlock>(codes, codes_bytes, steps[group][0], inverse[0], constants, strips[0],
                                         strips[1]);
      codes -= codes_bytes - kPanelWidth / 2 * sizeof(std::uint32_t);
      requantize_codes<kGroup != kBlock>(codes, codes_bytes, steps[group][1], inverse[1], constants, strips[2],
                                         strips[3]);
    }
  }
}

}  // namespace edgekiln::EDGEKILN_ISA
