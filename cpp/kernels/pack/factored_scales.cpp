#include "kernels/pack/factored_scales.h"

#include <algorithm>
#include <bit>
#include <climits>
#include <cmath>
#include <numeric>
#include <optional>
#include <utility>

namespace edgekiln {

namespace {

constexpr std::int64_t kLargestMultiple = 128;
constexpr int kLargestShift = 30;  // of a mantissa of 24 bits in 64
constexpr int kFloat16Bits = 11;   // of a mantissa

// A float as mantissa * 2^exponent with an odd mantissa, or 0.
struct Odd {
  std::int64_t mantissa;
  int exponent;
};

Odd odd_of(float value) {
  int exponent;
  const auto mantissa = static_cast<std::int64_t>(std::ldexp(std::frexp(value, &exponent), 24));
  if (!mantissa) return {0, 0};
  const int zeros = std::countr_zero(static_cast<std::uint64_t>(mantissa));
  return {mantissa / (std::int64_t{1} << zeros), exponent - 24 + zeros};
}

// unit * 2^exponent, if float16 holds it exactly.
std::optional<Float16> float16_of(std::int64_t unit, int exponent) {
  if (unit >> std::countr_zero(static_cast<std::uint64_t>(unit)) >= 1 << kFloat16Bits) return std::nullopt;
  return exact_float16(std::ldexp(static_cast<float>(unit), exponent));
}

// The factor of `count` scales and their multiples of it. False if there is none.
bool factor(const float* scales, std::size_t count, Float16& factor, std::int8_t* multiples) {
  Odd odd[kFactorGroups];
  int lowest = INT_MAX;
  for (std::size_t i = 0; i < count; ++i) {
    if (!std::isfinite(scales[i])) return false;
    odd[i] = odd_of(scales[i]);
    if (odd[i].mantissa) lowest = std::min(lowest, odd[i].exponent);
  }
  std::int64_t divisor = 0, smallest = 0, largest = 0;
  for (std::size_t i = 0; i < count; ++i) {
    if (!odd[i].mantissa) continue;
    if (odd[i].exponent - lowest > kLargestShift) return false;
    odd[i].mantissa *= std::int64_t{1} << (odd[i].exponent - lowest);
    divisor = std::gcd(divisor, odd[i].mantissa);
    smallest = std::min(smallest, odd[i].mantissa);
    largest = std::max(largest, odd[i].mantissa);
  }
  factor = {};
  std::fill_n(multiples, count, std::int8_t{0});
  if (!divisor) return true;
  // int8 holds -128 but not 128: with a negative factor it is the other way round.
  const int sign = largest > -smallest ? -1 : 1;
  const std::int64_t most = std::max(largest, -smallest) / divisor, least = std::min(largest, -smallest) / divisor;
  // The greatest common divisor may have too many digits for float16, and a part of it fewer.
  for (std::int64_t by = 1; by * most <= kLargestMultiple && by * least < kLargestMultiple; ++by) {
    const int halvings = std::countr_zero(static_cast<std::uint64_t>(by));
    if (divisor % (by >> halvings)) continue;
    const auto found = float16_of(divisor / (by >> halvings), lowest - halvings);
    if (!found) continue;
    factor = {static_cast<std::uint16_t>(found->bits ^ (sign < 0 ? 0x8000 : 0))};
    for (std::size_t i = 0; i < count; ++i)
      multiples[i] = static_cast<std::int8_t>(odd[i].mantissa / divisor * by * sign);
    return true;
  }
  return false;
}

}  // namespace

FactoredScales::FactoredScales(const float* scales, std::size_t columns, std::size_t groups)
    : groups_(groups), factors_per_column_((groups + kFactorGroups - 1) / kFactorGroups) {
  std::vector<Float16> factors(columns * factors_per_column_);
  std::vector<std::int8_t> multiples(columns * groups);
  for (std::size_t i = 0; i < factors.size(); ++i) {
    const std::size_t first = i % factors_per_column_ * kFactorGroups;
    const std::size_t at = i / factors_per_column_ * groups + first;
    if (!factor(scales + at, std::min(kFactorGroups, groups - first), factors[i], multiples.data() + at)) return;
  }
  factors_ = std::move(factors);
  multiples_ = std::move(multiples);
}

}  // namespace edgekiln
