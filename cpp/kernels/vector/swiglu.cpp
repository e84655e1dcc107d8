#include "kernels/swiglu.h"

#include <cmath>

#include "kernels/vector/for_each_row.h"
#include "kernels/vector/vector.h"

namespace edgekiln::EDGEKILN_ISA {
namespace {

void gate_row(const float* gate, const float* up, float* out, std::size_t width) {
  std::size_t i = 0;
  for (; i + kLanes <= width; i += kLanes) {
    const Floats x = load(gate + i);
    // e^-|x| cannot overflow.
    const Floats e = exp_of_negative(x < 0.0f ? x : -x);
    store(out + i, x * load(up + i) * (x < 0.0f ? e : broadcast(1.0f)) / (1.0f + e));
  }
  for (; i < width; ++i) out[i] = gate[i] / (1.0f + std::exp(-gate[i])) * up[i];
}

}  // namespace

void swiglu(const SwigluArgs& call, const Parallel& parallel) {
  for_each_row(call.rows, call.width, parallel, [&](std::size_t row) {
    const float* gate = call.a + row * 2 * call.width;
    gate_row(gate, gate + call.width, call.out + row * call.width, call.width);
  });
}

}  // namespace edgekiln::EDGEKILN_ISA
