// Dot products by lane. In assembly, as GCC 12 copies the accumulators of the intrinsics from register to register.
#pragma once

#include <arm_neon.h>

namespace edgekiln::EDGEKILN_ISA {

// sum[4] += weights [4 columns, 4] times the four codes in a lane.
template <int Lane>
inline void sdot_lane(int32x4_t& sum, int8x16_t weights, int8x16_t codes) {
#if defined(__clang__)
  sum = vdotq_laneq_s32(sum, weights, codes, Lane);
#else
  asm("sdot %0.4s, %1.16b, %2.4b[%3]" : "+w"(sum) : "w"(weights), "w"(codes), "i"(Lane));
#endif
}

}  // namespace edgekiln::EDGEKILN_ISA
