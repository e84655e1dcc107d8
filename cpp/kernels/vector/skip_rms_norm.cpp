#include "kernels/skip_rms_norm.h"

#include <algorithm>
#include <cmath>

#include "kernels/vector/for_each_row.h"
#include "kernels/vector/stripes.h"

namespace edgekiln::EDGEKILN_ISA {
namespace {

void normalize_token(const SkipRmsNormArgs& args, std::size_t token) {
  const std::size_t start = token * args.width, whole = args.width / kStripes * kStripes, rest = args.width - whole;
  const float *a = args.a + start, *b = args.b + start;
  float* out = args.out + start;
  Floats squares[kStripeParts] = {};
  const auto add = [&](const float* a, const float* b, const float* bias, float* to) {
    for (int part = 0; part < kStripeParts; ++part, a += kLanes, b += kLanes, to += kLanes) {
      Floats sum = load(a) + load(b);
      if (bias) sum += load(bias + part * kLanes);
      squares[part] = added(squares[part], sum, sum);
      store(to, sum);
    }
  };
  // `out`, which may be an input, holds the sum until it is scaled.
  for (std::size_t i = 0; i < whole; i += kStripes) add(a + i, b + i, args.bias ? args.bias + i : nullptr, out + i);
  if (rest) {
    float last[3][kStripes] = {};
    std::copy_n(a + whole, rest, last[0]);
    std::copy_n(b + whole, rest, last[1]);
    if (args.bias) std::copy_n(args.bias + whole, rest, last[2]);
    add(last[0], last[1], args.bias ? last[2] : nullptr, last[0]);
    std::copy_n(last[0], rest, out + whole);
  }
  if (args.sum) std::copy_n(out, args.width, args.sum + start);
  const float mean = sum_of_stripes(squares) / static_cast<float>(args.width);
  const float inverse = 1.0f / std::sqrt(mean + args.epsilon);
  for (std::size_t i = 0; i < whole; i += kLanes) store(out + i, load(out + i) * inverse * load(args.gamma + i));
  for (std::size_t i = whole; i < args.width; ++i) out[i] = out[i] * inverse * args.gamma[i];
}

}  // namespace

void skip_rms_norm(const SkipRmsNormArgs& args, const Parallel& parallel) {
  for_each_row(args.tokens, args.width, parallel, [&](std::size_t token) { normalize_token(args, token); });
}

}  // namespace edgekiln::EDGEKILN_ISA
