#include "kernels/swiglu.h"

#include <algorithm>

#include "kernels/vector/exponential.h"
#include "kernels/vector/for_each_row.h"

namespace edgekiln::EDGEKILN_ISA {
namespace {

// Of one token.
void swiglu_token(const float* gate, const float* up, float* out, std::size_t width) {
  const auto gated = [](Floats x, Floats y) { return x * y / one_plus_exp_minus(x); };
  const std::size_t whole = width / kLanes * kLanes, rest = width - whole;
  for (std::size_t i = 0; i < whole; i += kLanes) store(out + i, gated(load(gate + i), load(up + i)));
  if (!rest) return;
  float last[2][kLanes] = {};
  std::copy_n(gate + whole, rest, last[0]);
  std::copy_n(up + whole, rest, last[1]);
  store(last[0], gated(load(last[0]), load(last[1])));
  std::copy_n(last[0], rest, out + whole);
}

}  // namespace

void swiglu(const SwigluArgs& args, const Parallel& parallel) {
  for_each_row(args.tokens, args.width, parallel, [&](std::size_t token) {
    const float* gate = args.gate_up + token * 2 * args.width;
    swiglu_token(gate, gate + args.width, args.out + token * args.width, args.width);
  });
}

}  // namespace edgekiln::EDGEKILN_ISA
