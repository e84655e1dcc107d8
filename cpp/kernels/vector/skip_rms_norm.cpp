#include "kernels/skip_rms_norm.h"

#include <algorithm>
#include <cmath>

#include "kernels/vector/for_each_row.h"
#include "kernels/vector/vector.h"

namespace edgekiln::EDGEKILN_ISA {
namespace {

void normalize_token(const SkipRmsNormArgs& args, std::size_t token) {
  const std::size_t start = token * args.width, whole = args.width / kLanes * kLanes;
  const float *a = args.a + start, *b = args.b + start;
  float* out = args.out + start;
  // `out`, which may be an input, holds the sum until it is scaled.
  Floats squares{};
  float rest = 0.0f;
  for (std::size_t i = 0; i < whole; i += kLanes) {
    Floats sum = load(a + i) + load(b + i);
    if (args.bias) sum += load(args.bias + i);
    squares += sum * sum;
    store(out + i, sum);
  }
  for (std::size_t i = whole; i < args.width; ++i) {
    out[i] = a[i] + b[i] + (args.bias ? args.bias[i] : 0.0f);
    rest += out[i] * out[i];
  }
  if (args.sum) std::copy_n(out, args.width, args.sum + start);
  const float mean = (sum_of_lanes(squares) + rest) / static_cast<float>(args.width);
  const float inverse = 1.0f / std::sqrt(mean + args.epsilon);
  for (std::size_t i = 0; i < whole; i += kLanes) store(out + i, load(out + i) * inverse * load(args.gamma + i));
  for (std::size_t i = whole; i < args.width; ++i) out[i] *= inverse * args.gamma[i];
}

}  // namespace

void skip_rms_norm(const SkipRmsNormArgs& args, const Parallel& parallel) {
  for_each_row(args.tokens, args.width, parallel, [&](std::size_t token) { normalize_token(args, token); });
}

}  // namespace edgekiln::EDGEKILN_ISA
