// softplus(x) = ln(1 + e^x), the step size of state space models. For every instruction set.
#pragma once

#include "kernels/vector/exponential.h"

namespace edgekiln::EDGEKILN_ISA {

// max(x, 0) + ln(1 + t) with t = e^-|x| and ln(1 + t) = 2 artanh(z), z = t / (2 + t) <= 1/3: the series in z^2 has a
// remainder below 2^-25 after eight terms.
inline Floats softplus(Floats x) {
  const Floats t = exp_of_negative(-magnitude(x));
  const Floats z = t / (t + 2.0f), square = z * z;
  Floats sum = broadcast(1.0f / 15);
  for (const float divisor : {13.0f, 11.0f, 9.0f, 7.0f, 5.0f, 3.0f, 1.0f})
    sum = added(broadcast(1.0f / divisor), sum, square);
  return added(larger(x, Floats{}), z * 2.0f, sum);
}

// e^x for x <= 88, with an error of at most 2 ulp.
inline Floats exp_of(Floats x) { return exp_of_negative(smaller(x, broadcast(88.0f))); }

// 2^x for x <= 0 with an error of at most 2 ulp; 2^-100 where it is less, which a state in float does not see.
inline Floats exp2_of_negative(Floats x) {
  x = larger(x, broadcast(-100.0f));
  // The lowest bits of `shifted` are x to the nearest integer, see nearest(); the Taylor polynomial is that of the
  // rest.
  const float round = 12582912.0f;
  const Floats shifted = x + round, r = x - (shifted - round);
  Floats p = added(broadcast(1.33335581e-3f), broadcast(1.54035304e-4f), r);
  p = added(broadcast(9.61812911e-3f), p, r);
  p = added(broadcast(5.55041087e-2f), p, r);
  p = added(broadcast(0.240226507f), p, r);
  p = added(broadcast(0.693147181f), p, r);
  p = added(broadcast(1.0f), p, r);
  return reinterpret_cast<Floats>(reinterpret_cast<Ints>(p) + (reinterpret_cast<Ints>(shifted) << 23));
}

// x / (1 + e^-x)
inline Floats silu(Floats x) { return x / one_plus_exp_minus(x); }

}  // namespace edgekiln::EDGEKILN_ISA
