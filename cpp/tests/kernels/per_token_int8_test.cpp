// Every kernel that this processor runs, against rounded rows times the int8 weight in whole numbers.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "tested_kernels.h"
#include "testing.h"

namespace {

struct Case {
  std::size_t rows, depth, columns;
};

// The largest error relative to the largest result.
double error_of(const Case& c, edgekiln::RowQuantizedKernel kernel) {
  std::mt19937 generator(7);
  std::uniform_int_distribution<int> code(-128, 127);
  std::normal_distribution<float> normal;
  std::vector<std::int8_t> codes(c.depth * c.columns);
  std::vector<float> scales(c.columns), a(c.rows * c.depth);
  std::generate(codes.begin(), codes.end(), [&] { return static_cast<std::int8_t>(code(generator)); });
  std::generate(scales.begin(), scales.end(), [&] { return 0.01f + 0.01f * std::fabs(normal(generator)); });
  std::generate(a.begin(), a.end(), [&] { return normal(generator); });
  a[c.depth / 2] = 60.0f;
  if (c.rows > 1) std::fill_n(a.begin() + c.depth, c.depth, 0.0f);
  const auto a_memory = exactly(a), out = exactly(std::vector<float>(c.rows * c.columns, NAN));
  const edgekiln::Int8Panels panels(codes.data(), scales.data(), c.depth, c.columns);
  edgekiln::Scratch scratch;
  kernel(panels, a_memory.get(), c.rows, out.get(), edgekiln::kSerial, scratch);
  double worst = 0.0, largest_result = 0.0;
  for (std::size_t row = 0; row < c.rows; ++row) {
    float largest = 1e-10f;
    for (std::size_t k = 0; k < c.depth; ++k) largest = std::max(largest, std::fabs(a[row * c.depth + k]));
    for (std::size_t column = 0; column < c.columns; ++column) {
      double sum = 0.0;
      for (std::size_t k = 0; k < c.depth; ++k)
        sum += std::nearbyint(a[row * c.depth + k] * (127.0f / largest)) * codes[k * c.columns + column];
      const double expected = sum * scales[column] * largest / 127.0;
      const double error = std::abs(out[row * c.columns + column] - expected);
      worst = std::isnan(error) ? INFINITY : std::max(worst, error);
      largest_result = std::max(largest_result, std::abs(expected));
    }
  }
  return worst / largest_result;
}

}  // namespace

int main() {
  const std::vector<Case> cases = {{1, 576, 960}, {1, 1, 1},     {1, 33, 17},    {2, 576, 50},   {5, 1536, 576},
                                   {6, 64, 16},   {7, 576, 576}, {13, 130, 100}, {40, 257, 113}, {256, 576, 72}};
  int failures = 0;
  for (const edgekiln::Kernels& kernels : tested_kernels()) {
    if (!kernels.row_quantized) continue;
    for (const Case& c : cases) {
      const double error = error_of(c, kernels.row_quantized);
      if (error <= 1e-6) continue;
      std::printf("%s: %zu x %zu x %zu: off by %g\n", kernels.instruction_set, c.rows, c.depth, c.columns, error);
      ++failures;
    }
    std::printf("%s: %zu cases\n", kernels.instruction_set, cases.size());
  }
  return failures != 0;
}
