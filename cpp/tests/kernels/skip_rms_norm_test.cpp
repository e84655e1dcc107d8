// Every kernel that this processor runs, against the sum and norm in double precision.
#include <cmath>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "tested_kernels.h"

namespace {

constexpr double kTolerance = 1e-5;
constexpr float kEpsilon = 1e-5f;

struct Case {
  std::string name;
  std::size_t rows, width;
  bool bias, sum, in_place;
  bool out_in_place = false;
};

void last_to_first(void*, void (*task)(void*, std::size_t), std::size_t count, void* context) {
  while (count--) task(context, count);
}

// The largest error, relative to numbers near 1.
double error_of(const Case& c, edgekiln::SkipNormKernel kernel) {
  std::mt19937 generator(5);
  std::normal_distribution<float> normal;
  const auto numbers = [&](std::size_t count) {
    std::vector<float> values(count);
    for (float& value : values) value = normal(generator);
    return values;
  };
  auto a = numbers(c.rows * c.width);
  auto b = numbers(c.rows * c.width);
  const auto gamma = numbers(c.width), bias = numbers(c.width), before = a, added = b;
  std::vector<float> out(a.size(), NAN), sum(a.size(), NAN);
  float* sum_memory = !c.sum ? nullptr : c.in_place ? a.data() : sum.data();
  float* out_memory = c.out_in_place ? b.data() : out.data();
  kernel({c.rows, c.width, a.data(), b.data(), gamma.data(), c.bias ? bias.data() : nullptr, kEpsilon, out_memory,
          sum_memory},
         {last_to_first, nullptr});

  double worst = 0.0;
  const auto compare = [&](float found, double expected) {
    const double error = std::abs(found - expected);
    worst = std::isnan(error) ? INFINITY : std::max(worst, error);
  };
  for (std::size_t row = 0; row < c.rows; ++row) {
    std::vector<double> sums(c.width);
    double squares = 0.0;
    for (std::size_t i = 0; i < c.width; ++i) {
      const std::size_t at = row * c.width + i;
      sums[i] = static_cast<double>(before[at]) + added[at] + (c.bias ? bias[i] : 0.0f);
      squares += sums[i] * sums[i];
      if (c.sum) compare(sum_memory[at], sums[i]);
    }
    const double root = std::sqrt(squares / static_cast<double>(c.width) + kEpsilon);
    for (std::size_t i = 0; i < c.width; ++i) compare(out_memory[row * c.width + i], sums[i] / root * gamma[i]);
  }
  return worst;
}

}  // namespace

int main() {
  const std::vector<Case> cases = {
      {"one row", 1, 576, false, true, false},
      {"with bias", 3, 64, true, true, false},
      {"no sum", 2, 32, false, false, false},
      {"the sum over its input", 4, 96, true, true, true},
      {"both over their inputs", 4, 100, false, true, true, true},
      {"narrower than a vector", 2, 3, true, true, false},
      {"an odd width", 5, 77, false, true, true},
      {"many rows", 300, 128, false, true, false},
      {"wide", 2, 40000, false, true, false},
  };
  int failures = 0;
  for (const edgekiln::Kernels& kernels : tested_kernels()) {
    for (const Case& c : cases) {
      const double error = error_of(c, kernels.skip_norm);
      if (!(error <= kTolerance)) {
        std::printf("%s: %s: off by %g\n", kernels.instruction_set, c.name.c_str(), error);
        ++failures;
      }
    }
    std::printf("%s: %zu cases\n", kernels.instruction_set, cases.size());
  }
  return failures != 0;
}
