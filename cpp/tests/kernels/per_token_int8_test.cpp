// Per-token int8 GEMM: quantized activations times int8 weights, against integer arithmetic.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "tested_kernels.h"
#include "testing.h"

namespace {

struct Case {
  std::size_t m, k, n;
  bool extreme = false;  // codes are -128, -127 and 127, activations the largest
                         // and smallest there are
};

// The largest error relative to the largest result.
double error_of(const Case& c, const edgekiln::KernelTable& kernels) {
  std::mt19937 generator(7);
  std::uniform_int_distribution<int> code(-128, 127);
  std::normal_distribution<float> normal;
  std::vector<std::int8_t> codes(c.k * c.n);
  std::vector<float> scales(c.n), a(c.m * c.k);
  std::generate(codes.begin(), codes.end(), [&] {
    const int value = code(generator);
    return static_cast<std::int8_t>(!c.extreme ? value : value > 0 ? 127 : value > -64 ? -127 : -128);
  });
  std::generate(scales.begin(), scales.end(), [&] { return 0.01f + 0.01f * std::fabs(normal(generator)); });
  std::generate(a.begin(), a.end(), [&] {
    const float value = normal(generator);
    return !c.extreme ? value : value > -1.0f ? 1.0f : -1.0f;
  });
  if (!c.extreme) a[c.k / 2] = 60.0f;
  if (c.m > 1 && !c.extreme) std::fill_n(a.begin() + c.k, c.k, 0.0f);
  const auto a_memory = exactly(a), out = exactly(std::vector<float>(c.m * c.n, NAN));
  const edgekiln::PackedInt8 weight(codes.data(), scales.data(), c.k, c.n, kernels.int8_order);
  edgekiln::Scratch scratch;
  kernels.per_token_int8_gemm(weight, a_memory.get(), c.m, out.get(), edgekiln::kSerial, scratch);
  double worst = 0.0, largest_result = 0.0;
  for (std::size_t token = 0; token < c.m; ++token) {
    float largest = 1e-10f;
    for (std::size_t k = 0; k < c.k; ++k) largest = std::max(largest, std::fabs(a[token * c.k + k]));
    for (std::size_t column = 0; column < c.n; ++column) {
      double sum = 0.0;
      for (std::size_t k = 0; k < c.k; ++k)
        sum += std::nearbyint(a[token * c.k + k] * (127.0f / largest)) * codes[k * c.n + column];
      const double expected = sum * scales[column] * largest / 127.0;
      const double error = std::abs(out[token * c.n + column] - expected);
      worst = std::isnan(error) ? INFINITY : std::max(worst, error);
      largest_result = std::max(largest_result, std::abs(expected));
    }
  }
  return worst / largest_result;
}

const std::vector<Case> kCases = {
    {1, 576, 960},      {1, 1, 1},          {1, 33, 17},        {2, 576, 50},   {5, 1536, 576}, {6, 64, 16},
    {7, 576, 576},      {13, 130, 100},     {40, 257, 113},     {256, 576, 72}, {3, 35, 33},    {4, 46, 31},
    {8, 99, 47},        {9, 67, 15},        {10, 321, 49},      {95, 66, 20},   {96, 31, 18},   {100, 34, 65},
    {1, 256, 40, true}, {7, 130, 33, true}, {12, 257, 70, true}};

}  // namespace

TEST_CASE("per-token int8 GEMM matches integer arithmetic") {
  for (const edgekiln::KernelTable& kernels : tested_kernels()) {
    if (!kernels.per_token_int8_gemm) continue;
    for (const Case& c : kCases) {
      INFO(kernels.instruction_set, ": ", c.m, " x ", c.k, " x ", c.n);
      CHECK(error_of(c, kernels) <= 1e-6);
    }
  }
}
