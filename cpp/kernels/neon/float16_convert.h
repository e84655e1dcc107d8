// float16 to float32, for NEON.
#pragma once

#include <arm_neon.h>

#ifndef EDGEKILN_ISA
#error "EDGEKILN_ISA must name the instruction set this file is compiled for"
#endif

namespace edgekiln::EDGEKILN_ISA::detail {

// The 16 values whose bits are `low` and `high`.
inline void floats_of_float16(uint16x8_t low, uint16x8_t high, float32x4_t (&to)[4]) {
  to[0] = vcvt_f32_f16(vget_low_f16(vreinterpretq_f16_u16(low)));
  to[1] = vcvt_high_f32_f16(vreinterpretq_f16_u16(low));
  to[2] = vcvt_f32_f16(vget_low_f16(vreinterpretq_f16_u16(high)));
  to[3] = vcvt_high_f32_f16(vreinterpretq_f16_u16(high));
}

}  // namespace edgekiln::EDGEKILN_ISA::detail
