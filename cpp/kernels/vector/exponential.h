// Functions of e^x. For every instruction set.
#pragma once

#include "kernels/vector/vector.h"

namespace edgekiln::EDGEKILN_ISA {

// e^x for x <= 0 with an error of at most 2 ulp; 0 where e^x would be subnormal.
//
// Range reduction by Cody and Waite, x = n ln 2 + r with |r| <= ln 2 / 2 and ln 2 in two parts, then the Taylor
// polynomial of e^r of degree 6, whose remainder is below 2^-24 there.
inline Floats exp_of_negative(Floats x) {
  const Floats lowest = broadcast(-87.0f), one = broadcast(1.0f);
  const Floats clamped = larger(x, lowest);
  // Rounded as in nearest(), together with the product.
  const Floats round = broadcast(12582912.0f);
  const Floats n = added(round, clamped, broadcast(1.44269504f)) - round;
  Floats r = subtracted(clamped, broadcast(0.693359375f), n);
  r = added(r, n, broadcast(2.12194440e-4f));
  Floats p = added(broadcast(1.0f / 120), broadcast(1.0f / 720), r);
  p = added(broadcast(1.0f / 24), p, r);
  p = added(broadcast(1.0f / 6), p, r);
  p = added(broadcast(0.5f), p, r);
  p = added(one, p, r);
  p = added(one, p, r);
  const Ints bits = (__builtin_convertvector(n, Ints) + 127) << 23;
  Floats power;
  std::memcpy(&power, &bits, sizeof power);
  return x < lowest ? Floats{} : p * power;
}

// tanh(|x|) = (1 - e^-2|x|) / (1 + e^-2|x|)
inline Floats tanh_of(Floats x) {
  const Floats size = x < 0.0f ? -x : x;
  const Floats e = exp_of_negative(size * -2.0f);
  const Floats t = (1.0f - e) / (1.0f + e);
  return x < 0.0f ? -t : t;
}

// 1 + e^-x with x clamped to +-87, with an error of at most 2 ulp. The polynomial is evaluated in pairs (Estrin's
// scheme), which takes fewer instructions where a multiply-add overwrites its sum, as NEON's does.
inline Floats one_plus_exp_minus(Floats x) {
  const Floats one = broadcast(1.0f);
  x = larger(smaller(x, broadcast(87.0f)), broadcast(-87.0f));
  // x = -n ln 2 + r, e^-x = 2^n e^-r
  const Ints exponent = to_ints(x * -1.44269504f);
  const Floats n = to_floats(exponent);
  Floats r = added(x, n, broadcast(0.693359375f));
  r = subtracted(r, broadcast(2.12194440e-4f), n);
  const Floats square = r * r;
  Floats high = subtracted(broadcast(1.0f / 24), broadcast(1.0f / 120), r);
  high = added(high, square, broadcast(1.0f / 720));
  const Floats middle = added(subtracted(broadcast(0.5f), broadcast(1.0f / 6), r), square, high);
  const Floats power = added(one - r, square, middle);
  // Times 2^n: the result is a normal number.
  return one + reinterpret_cast<Floats>(reinterpret_cast<Ints>(power) + (exponent << 23));
}

}  // namespace edgekiln::EDGEKILN_ISA
