// Every kernel that this processor runs, against the definition in double precision.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <utility>

#include "tested_kernels.h"
#include "testing.h"

namespace {

// The largest error relative to the result, of gates from -100 to 100.
double error_of(std::size_t rows, std::size_t width, edgekiln::GatedSiluKernel kernel) {
  // Allocations of exactly these numbers, so that a sanitizer sees any access past them.
  const auto a = std::make_unique<float[]>(rows * 2 * width), out = std::make_unique<float[]>(rows * width);
  for (std::size_t i = 0; i < rows * 2 * width; ++i)
    a[i] = 200.0f * static_cast<float>(i * 7919 % 1009) / 1009 - 100.0f;
  a[0] = 0.0f;
  kernel({rows, width, a.get(), out.get()}, edgekiln::kSerial);
  double worst = 0.0;
  for (std::size_t i = 0; i < rows * width; ++i) {
    const std::size_t at = i / width * 2 * width + i % width;
    const double gate = a[at], expected = gate / (1.0 + std::exp(-gate)) * a[at + width];
    // Below the normal numbers of the exponential, the result is 0.
    const double error = std::abs(out[i] - expected) / (std::abs(expected) + 1e-27);
    worst = std::isnan(error) ? INFINITY : std::max(worst, error);
  }
  return worst;
}

}  // namespace

int main() {
  int failures = 0;
  for (const edgekiln::Kernels& kernels : tested_kernels()) {
    for (const auto& [rows, width] : {std::pair<std::size_t, std::size_t>{1, 1}, {1, 1536}, {3, 33}, {40, 1000}}) {
      const double error = error_of(rows, width, kernels.gated_silu);
      if (error <= 2e-6) continue;
      std::printf("%s: %zu x %zu: off by %g\n", kernels.instruction_set, rows, width, error);
      ++failures;
    }
  }
  return failures != 0;
}
