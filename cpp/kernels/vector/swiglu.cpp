#include "kernels/swiglu.h"

#include <cmath>

#include "kernels/vector/for_each_row.h"
#include "kernels/vector/vector.h"

namespace edgekiln::EDGEKILN_ISA {
namespace {

// Of one token.
void swiglu_token(const float* gate, const float* up, float* out, std::size_t width) {
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

void swiglu(const SwigluArgs& args, const Parallel& parallel) {
  for_each_row(args.tokens, args.width, parallel, [&](std::size_t token) {
    const float* gate = args.gate_up + token * 2 * args.width;
    swiglu_token(gate, gate + args.width, args.out + token * args.width, args.width);
  });
}

}  // namespace edgekiln::EDGEKILN_ISA
