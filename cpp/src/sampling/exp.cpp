#include "sampling/exp.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

namespace edgekiln {

namespace {

constexpr float kSmallest = -103.97208F;  // below it, exp(x) rounds to 0
constexpr float kRound = 0x1.8p23F;       // adding and subtracting it rounds to the nearest integer
constexpr std::int32_t kLeastExponent = -125;

inline float power_of_two(std::int32_t exponent) { return std::bit_cast<float>((exponent + 127) << 23); }

// x = k ln 2 + r with |r| <= ln 2 / 2 (Cody-Waite reduction in two steps), exp(r) as a minimax rational function on
// that interval, scaled by 2^k. Branch-free, so that compilers vectorize it.
[[gnu::always_inline]] inline void exp_each(std::span<float> values) {
  for (float& value : values) {
    const float x = std::max(value, kSmallest);
    const float k = (x * 1.44269504088896341F + kRound) - kRound;
    float r = std::fma(k, -6.93145752e-1F, x);
    r = std::fma(k, -1.42860677e-6F, r);
    float numerator = std::fma(5.082762527590693718096e-04F, r, 6.757896990527504603057e-03F);
    numerator = std::fma(numerator, r, 5.114512081637298353406e-02F);
    numerator = std::fma(numerator, r, 2.473615434895520810817e-01F);
    numerator = std::fma(numerator, r, 7.257664613233124478488e-01F);
    numerator = std::fma(numerator, r, 9.999999999980870924916e-01F);
    float denominator = std::fma(2.159509375685829852307e-02F, r, -2.742335390411667452936e-01F);
    denominator = std::fma(denominator, r, 1.0F);
    // Two multiplications: only the second may give a subnormal number, and so round.
    const auto exponent = static_cast<std::int32_t>(k);
    const std::int32_t first = std::max(exponent, kLeastExponent);
    const float result = numerator / denominator * power_of_two(first) * power_of_two(exponent - first);
    value = value < kSmallest ? 0.0F : result;
  }
}

#if defined(__x86_64__)
[[gnu::target("avx2,fma")]] void exp_with_fma(std::span<float> values) { exp_each(values); }
#endif

}  // namespace

void exp_of_negative(std::span<float> values) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("fma") && __builtin_cpu_supports("avx2")) return exp_with_fma(values);
#endif
  exp_each(values);
}

}  // namespace edgekiln
