// Helpers of the tests of kernels for layers with states.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <random>
#include <vector>

#include "kernels/common/parallel.h"

inline std::vector<float> random_floats(std::size_t count, unsigned seed, float deviation = 1.0f) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0.0f, deviation);
  std::vector<float> values(count);
  for (float& value : values) value = normal(generator);
  return values;
}

// The largest error, relative to the value where that is above 1; infinite for NaN.
inline double largest_error(const std::vector<float>& found, const std::vector<double>& expected) {
  double worst = 0.0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    const double error = std::abs(found[i] - expected[i]) / std::max(1.0, std::abs(expected[i]));
    worst = std::isnan(error) ? INFINITY : std::max(worst, error);
  }
  return worst;
}

// Runs iterations in reverse.
inline constexpr edgekiln::Parallel kLastToFirst{
    [](void*, void (*task)(void*, std::size_t), std::size_t count, void* context) {
      while (count--) task(context, count);
    },
    nullptr};
