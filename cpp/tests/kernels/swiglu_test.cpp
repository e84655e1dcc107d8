// SwiGLU against its definition in double precision.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>

#include "tested_kernels.h"
#include "testing.h"

namespace {

// The largest relative error, for gates from -100 to 100.
double error_of(std::size_t tokens, std::size_t width, edgekiln::SwigluKernel kernel) {
  // Allocations of the exact sizes, so that sanitizers detect accesses past them.
  const auto a = std::make_unique<float[]>(tokens * 2 * width), out = std::make_unique<float[]>(tokens * width);
  for (std::size_t i = 0; i < tokens * 2 * width; ++i)
    a[i] = 200.0f * static_cast<float>(i * 7919 % 1009) / 1009 - 100.0f;
  a[0] = 0.0f;
  kernel({tokens, width, a.get(), out.get()}, edgekiln::kSerial);
  double worst = 0.0;
  for (std::size_t i = 0; i < tokens * width; ++i) {
    const std::size_t at = i / width * 2 * width + i % width;
    const double gate = a[at], expected = gate / (1.0 + std::exp(-gate)) * a[at + width];
    // Where the exponential would be subnormal, the result is 0.
    const double error = std::abs(out[i] - expected) / (std::abs(expected) + 1e-27);
    worst = std::isnan(error) ? INFINITY : std::max(worst, error);
  }
  return worst;
}

}  // namespace

TEST_CASE("SwiGLU matches double precision") {
  for (const edgekiln::KernelTable& kernels : tested_kernels()) {
    for (const auto& [tokens, width] : {std::pair<std::size_t, std::size_t>{1, 1}, {1, 1536}, {3, 33}, {40, 1000}}) {
      INFO(kernels.instruction_set, ": ", tokens, " x ", width);
      CHECK(error_of(tokens, width, kernels.swiglu) <= 2e-6);
    }
  }
}
