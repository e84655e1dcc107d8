// SwiGLU. For NEON, where it is much of what prefill computes besides products.
#include "kernels/swiglu.h"

#include <arm_neon.h>

#include <algorithm>

#include "kernels/isa_kernels.h"
#include "kernels/vector/exponential.h"
#include "kernels/vector/for_each_row.h"

namespace edgekiln::EDGEKILN_ISA {
namespace {

// Of kLanes values.
[[gnu::always_inline]] inline float32x4_t gated(float32x4_t x, float32x4_t y) {
  return vdivq_f32(vmulq_f32(x, y), reinterpret_cast<float32x4_t>(one_plus_exp_minus(reinterpret_cast<Floats>(x))));
}

// Of fewer than 8 values. Not inlined: with its calls, GCC would load the constants of the loop below in each
// iteration.
[[gnu::noinline]] void swiglu_rest(const float* gate, const float* up, float* out, std::size_t count) {
  float last[2][8] = {};
  std::copy_n(gate, count, last[0]);
  std::copy_n(up, count, last[1]);
  for (int i = 0; i < 8; i += 4) vst1q_f32(last[0] + i, gated(vld1q_f32(last[0] + i), vld1q_f32(last[1] + i)));
  std::copy_n(last[0], count, out);
}

// Of one token.
void swiglu_token(const float* gate, const float* up, float* out, std::size_t width) {
  std::size_t i = 0;
  for (; i + 8 <= width; i += 8) {
    const float32x4x2_t x = vld1q_f32_x2(gate + i), y = vld1q_f32_x2(up + i);
    float32x4_t results[2];
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) results[j] = gated(x.val[j], y.val[j]);
    vst1q_f32(out + i, results[0]);
    vst1q_f32(out + i + 4, results[1]);
  }
  if (i < width) swiglu_rest(gate + i, up + i, out + i, width - i);
}

}  // namespace

void swiglu(const SwigluArgs& args, const Parallel& parallel) {
  for_each_row(args.tokens, args.width, parallel, [&](std::size_t token) {
    const float* gate = args.gate_up + token * 2 * args.width;
    swiglu_token(gate, gate + args.width, args.out + token * args.width, args.width);
  });
}

}  // namespace edgekiln::EDGEKILN_ISA
