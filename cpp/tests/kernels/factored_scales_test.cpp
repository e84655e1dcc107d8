// Scales as float16 factors times int8: the products are the scales to the bit, or there are none.
#include "kernels/pack/factored_scales.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

namespace {

using edgekiln::FactoredScales;

constexpr std::size_t kColumns = 40, kGroups = 35;

float to_float(edgekiln::Float16 value) {
  const int exponent = value.bits >> 10 & 31, fraction = value.bits & 1023;
  const float size = exponent ? std::ldexp(1024.0f + static_cast<float>(fraction), exponent - 25)
                              : std::ldexp(static_cast<float>(fraction), -24);
  return value.bits & 0x8000 ? -size : size;
}

// How many of the scales are not the product of factor and multiple; all of them if there are no factors.
std::size_t wrong_products(const std::vector<float>& scales) {
  const FactoredScales factored(scales.data(), kColumns, kGroups);
  if (factored.empty()) return scales.size();
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < scales.size(); ++i) {
    const std::size_t column = i / kGroups, group = i % kGroups;
    const float factor = to_float(factored.factors(column)[group / edgekiln::kFactorGroups]);
    wrong += factor * static_cast<float>(factored.multiples(column)[group]) != scales[i];
  }
  return wrong;
}

// Factors of all float16 magnitudes times the integers of `multiple`.
template <typename Multiple>
std::vector<float> products(const Multiple& multiple) {
  std::mt19937 generator(1);
  std::vector<float> scales(kColumns * kGroups);
  float factor = 0.0f;
  for (std::size_t i = 0; i < scales.size(); ++i) {
    if (i % kGroups % edgekiln::kFactorGroups == 0)
      factor = to_float({static_cast<std::uint16_t>(generator() & 0xbfff)});
    scales[i] = factor * static_cast<float>(multiple(generator));
  }
  return scales;
}

}  // namespace

TEST_CASE("scales that are float16 times int8 are factored exactly") {
  using Generator = std::mt19937;
  CHECK(wrong_products(products([](Generator& g) { return static_cast<int>(g() % 256) - 128; })) == 0);
  // Whose greatest common divisor times the factor has too many digits for float16.
  CHECK(wrong_products(products([](Generator& g) { return static_cast<int>(g() % 3) * 63 - 63; })) == 0);
  CHECK(wrong_products(products([](Generator&) { return -128; })) == 0);
  CHECK(wrong_products(products([](Generator& g) { return static_cast<int>(g() % 2) * 128 - 128; })) == 0);
  CHECK(wrong_products(std::vector<float>(kColumns * kGroups)) == 0);
}

TEST_CASE("other scales are not factored") {
  std::vector<float> scales(kColumns * kGroups, 1.0f);
  for (const float last : {255.0f, 0.0039f, 1.0f + 0x1p-20f, 0x1p-80f, NAN, INFINITY}) {
    scales.back() = last;
    CHECK(FactoredScales(scales.data(), kColumns, kGroups).empty());
  }
}
