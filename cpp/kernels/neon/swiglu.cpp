// SwiGLU. For NEON, where it is much of what prefill computes besides products.
#include "kernels/swiglu.h"

#include <arm_neon.h>

#include <cmath>

#include "kernels/isa_kernels.h"
#include "kernels/vector/for_each_row.h"

namespace edgekiln::EDGEKILN_ISA {
namespace {

// 1 + e^-x with x clamped to +-87, with an error of at most 2 ulp. As exp_of_negative() of vector.h, whose polynomial
// it evaluates in pairs (Estrin's scheme): fewer operations, as a multiply-add overwrites its sum.
inline float32x4_t one_plus_exp_minus(float32x4_t x) {
  const float32x4_t one = vdupq_n_f32(1.0f);
  x = vmaxq_f32(vminq_f32(x, vdupq_n_f32(87.0f)), vdupq_n_f32(-87.0f));
  // x = -n ln 2 + r, e^-x = 2^n e^-r
  const float32x4_t n = vrndnq_f32(vmulq_n_f32(x, -1.44269504f));
  float32x4_t r = vfmaq_f32(x, n, vdupq_n_f32(0.693359375f));
  r = vfmsq_f32(r, n, vdupq_n_f32(2.12194440e-4f));
  const float32x4_t square = vmulq_f32(r, r);
  float32x4_t high = vfmsq_f32(vdupq_n_f32(1.0f / 24), r, vdupq_n_f32(1.0f / 120));
  high = vfmaq_f32(high, square, vdupq_n_f32(1.0f / 720));
  const float32x4_t middle = vfmaq_f32(vfmsq_f32(vdupq_n_f32(0.5f), r, vdupq_n_f32(1.0f / 6)), square, high);
  const float32x4_t power = vfmaq_f32(vsubq_f32(one, r), square, middle);
  // Times 2^n: the result is a normal number.
  const int32x4_t exponent = vshlq_n_s32(vcvtq_s32_f32(n), 23);
  return vaddq_f32(one, vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(power), exponent)));
}

// Of one token.
void swiglu_token(const float* gate, const float* up, float* out, std::size_t width) {
  std::size_t i = 0;
  for (; i + 8 <= width; i += 8) {
    const float32x4x2_t x = vld1q_f32_x2(gate + i), y = vld1q_f32_x2(up + i);
    float32x4_t results[2];
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) results[j] = vdivq_f32(vmulq_f32(x.val[j], y.val[j]), one_plus_exp_minus(x.val[j]));
    vst1q_f32(out + i, results[0]);
    vst1q_f32(out + i + 4, results[1]);
  }
  for (; i < width; ++i) out[i] = gate[i] / (1.0f + std::exp(-gate[i])) * up[i];
}

}  // namespace

void swiglu(const SwigluArgs& args, const Parallel& parallel) {
  for_each_row(args.tokens, args.width, parallel, [&](std::size_t token) {
    const float* gate = args.gate_up + token * 2 * args.width;
    swiglu_token(gate, gate + args.width, args.out + token * args.width, args.width);
  });
}

}  // namespace edgekiln::EDGEKILN_ISA
