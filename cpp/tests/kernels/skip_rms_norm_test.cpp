// Skip RMS norm: residual addition and RMS norm, against double precision.
#include <doctest/doctest.h>

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "tested_kernels.h"

namespace {

constexpr double kTolerance = 1e-5;
constexpr float kEpsilon = 1e-5f;

struct Case {
  std::string name;
  std::size_t tokens, width;
  bool bias, sum, in_place;
  bool out_in_place = false;
};

// A Parallel that runs iterations in reverse.
void last_to_first(void*, void (*task)(void*, std::size_t), std::size_t count, void* context) {
  while (count--) task(context, count);
}

// The largest absolute error; values are near 1.
double error_of(const Case& c, edgekiln::SkipRmsNormKernel kernel) {
  std::mt19937 generator(5);
  std::normal_distribution<float> normal;
  const auto random_floats = [&](std::size_t count) {
    std::vector<float> values(count);
    for (float& value : values) value = normal(generator);
    return values;
  };
  auto a = random_floats(c.tokens * c.width);
  auto b = random_floats(c.tokens * c.width);
  const auto gamma = random_floats(c.width), bias = random_floats(c.width), before = a, added = b;
  std::vector<float> out(a.size(), NAN), sum(a.size(), NAN);
  float* sum_memory = !c.sum ? nullptr : c.in_place ? a.data() : sum.data();
  float* out_memory = c.out_in_place ? b.data() : out.data();
  kernel({c.tokens, c.width, a.data(), b.data(), gamma.data(), c.bias ? bias.data() : nullptr, kEpsilon, out_memory,
          sum_memory},
         {last_to_first, nullptr});

  double worst = 0.0;
  const auto compare = [&](float found, double expected) {
    const double error = std::abs(found - expected);
    worst = std::isnan(error) ? INFINITY : std::max(worst, error);
  };
  for (std::size_t token = 0; token < c.tokens; ++token) {
    std::vector<double> sums(c.width);
    double squares = 0.0;
    for (std::size_t i = 0; i < c.width; ++i) {
      const std::size_t at = token * c.width + i;
      sums[i] = static_cast<double>(before[at]) + added[at] + (c.bias ? bias[i] : 0.0f);
      squares += sums[i] * sums[i];
      if (c.sum) compare(sum_memory[at], sums[i]);
    }
    const double root = std::sqrt(squares / static_cast<double>(c.width) + kEpsilon);
    for (std::size_t i = 0; i < c.width; ++i) compare(out_memory[token * c.width + i], sums[i] / root * gamma[i]);
  }
  return worst;
}

const std::vector<Case> kCases = {
    {"one token", 1, 576, false, true, false},
    {"with bias", 3, 64, true, true, false},
    {"no sum", 2, 32, false, false, false},
    {"the sum in place", 4, 96, true, true, true},
    {"both in place", 4, 100, false, true, true, true},
    {"narrower than a vector", 2, 3, true, true, false},
    {"an odd width", 5, 77, false, true, true},
    {"many tokens", 300, 128, false, true, false},
    {"wide", 2, 40000, false, true, false},
};

}  // namespace

TEST_CASE("skip RMS norm matches double precision") {
  for (const edgekiln::KernelTable& kernels : tested_kernels()) {
    for (const Case& c : kCases) {
      INFO(kernels.instruction_set, ": ", c.name);
      CHECK(error_of(c, kernels.skip_rms_norm) <= kTolerance);
    }
  }
}
