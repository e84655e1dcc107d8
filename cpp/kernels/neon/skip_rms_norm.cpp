// RMS norm of a sum. For NEON: 16 values at a time.
#include "kernels/skip_rms_norm.h"

#include <arm_neon.h>

#include <cmath>

#include "kernels/isa_kernels.h"
#include "kernels/vector/for_each_row.h"
#include "kernels/vector/stripes.h"

namespace edgekiln::EDGEKILN_ISA {
namespace {

constexpr std::size_t kStep = kStripes;

// sum[width] = a + b + bias; returns the sum of squares. `sum` may be `a` or `b`.
template <bool HasBias>
float add(const float* a, const float* b, const float* bias, float* sum, std::size_t width) {
  float32x4_t squares[4] = {};
  std::size_t i = 0;
  for (; i + kStep <= width; i += kStep) {
    float32x4_t x[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) x[j] = vaddq_f32(vld1q_f32(a + i + 4 * j), vld1q_f32(b + i + 4 * j));
#pragma GCC unroll 4
    for (int j = 0; j < 4 && HasBias; ++j) x[j] = vaddq_f32(x[j], vld1q_f32(bias + i + 4 * j));
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) squares[j] = vfmaq_f32(squares[j], x[j], x[j]);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) vst1q_f32(sum + i + 4 * j, x[j]);
  }
  if (i < width) {
    float last[kStripes] = {};
    for (std::size_t j = 0; i + j < width; ++j)
      sum[i + j] = last[j] = a[i + j] + b[i + j] + (HasBias ? bias[i + j] : 0);
    for (int j = 0; j < 4; ++j) {
      const float32x4_t x = vld1q_f32(last + 4 * j);
      squares[j] = vfmaq_f32(squares[j], x, x);
    }
  }
  return sum_of_stripes(reinterpret_cast<const Floats(&)[kStripeParts]>(squares));
}

// out[width] = factor * from * gamma; `out` may be `from`.
void scale(const float* from, float factor, const float* gamma, float* out, std::size_t width) {
  std::size_t i = 0;
  for (; i + kStep <= width; i += kStep) {
    float32x4_t x[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j)
      x[j] = vmulq_f32(vmulq_n_f32(vld1q_f32(from + i + 4 * j), factor), vld1q_f32(gamma + i + 4 * j));
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) vst1q_f32(out + i + 4 * j, x[j]);
  }
  for (; i < width; ++i) out[i] = from[i] * factor * gamma[i];
}

void normalize_token(const SkipRmsNormArgs& args, std::size_t token) {
  const std::size_t start = token * args.width;
  // Without `sum`, `out` holds the sum until it is scaled; both may be inputs.
  float* const sum = (args.sum ? args.sum : args.out) + start;
  const float squares =
      (args.bias ? add<true> : add<false>)(args.a + start, args.b + start, args.bias, sum, args.width);
  const float mean = squares / static_cast<float>(args.width);
  scale(sum, 1.0f / std::sqrt(mean + args.epsilon), args.gamma, args.out + start, args.width);
}

}  // namespace

void skip_rms_norm(const SkipRmsNormArgs& args, const Parallel& parallel) {
  for_each_row(args.tokens, args.width, parallel, [&](std::size_t token) { normalize_token(args, token); });
}

}  // namespace edgekiln::EDGEKILN_ISA
