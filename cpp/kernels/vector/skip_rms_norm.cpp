#include "kernels/skip_rms_norm.h"

#include <algorithm>
#include <cmath>

#include "kernels/vector/for_each_row.h"
#include "kernels/vector/vector.h"

namespace edgekiln::EDGEKILN_ISA {
namespace {

void norm_row(const SkipRmsNormArgs& call, std::size_t row) {
  const std::size_t start = row * call.width, whole = call.width / kLanes * kLanes;
  const float *a = call.a + start, *b = call.b + start;
  float* out = call.out + start;
  // The output, which may be an input, holds the sum until it is scaled.
  Floats squares{};
  float rest = 0.0f;
  for (std::size_t i = 0; i < whole; i += kLanes) {
    Floats sum = load(a + i) + load(b + i);
    if (call.bias) sum += load(call.bias + i);
    squares += sum * sum;
    store(out + i, sum);
  }
  for (std::size_t i = whole; i < call.width; ++i) {
    out[i] = a[i] + b[i] + (call.bias ? call.bias[i] : 0.0f);
    rest += out[i] * out[i];
  }
  if (call.sum) std::copy_n(out, call.width, call.sum + start);
  const float mean = (sum_of_lanes(squares) + rest) / static_cast<float>(call.width);
  const float inverse = 1.0f / std::sqrt(mean + call.epsilon);
  for (std::size_t i = 0; i < whole; i += kLanes) store(out + i, load(out + i) * inverse * load(call.gamma + i));
  for (std::size_t i = whole; i < call.width; ++i) out[i] *= inverse * call.gamma[i];
}

}  // namespace

void skip_rms_norm(const SkipRmsNormArgs& call, const Parallel& parallel) {
  for_each_row(call.rows, call.width, parallel, [&](std::size_t row) { norm_row(call, row); });
}

}  // namespace edgekiln::EDGEKILN_ISA
