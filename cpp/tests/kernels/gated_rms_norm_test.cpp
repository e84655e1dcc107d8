// RMS norm before and after a gate, against double precision.
#include <doctest/doctest.h>

#include <cmath>
#include <utility>
#include <vector>

#include "recurrence_testing.h"
#include "tested_kernels.h"

TEST_CASE("gated RMS norms match double precision") {
  for (const edgekiln::KernelTable& kernels : tested_kernels()) {
    for (const auto& [rows, width] : {std::pair<std::size_t, std::size_t>{1, 2048}, {33, 128}, {4, 77}, {2, 3}}) {
      for (const bool norm_before_gate : {false, true}) {
        INFO(kernels.instruction_set, ": ", rows, " x ", width);
        const auto x = random_floats(rows * width, 1), gate = random_floats(rows * width, 2),
                   gamma = random_floats(width, 3);
        std::vector<float> out(x.size(), NAN);
        kernels.gated_rms_norm({rows, width, x.data(), gate.data(), gamma.data(), 1e-5f, norm_before_gate, out.data()},
                               kLastToFirst);
        std::vector<double> expected(x.size());
        for (std::size_t row = 0; row < rows; ++row) {
          double squares = 0.0;
          const auto silu = [&](std::size_t i) { return gate[i] / (1.0 + std::exp(-static_cast<double>(gate[i]))); };
          for (std::size_t i = row * width; i < (row + 1) * width; ++i) {
            expected[i] = norm_before_gate ? x[i] : x[i] * silu(i);
            squares += expected[i] * expected[i];
          }
          const double root = std::sqrt(squares / static_cast<double>(width) + 1e-5);
          for (std::size_t i = row * width; i < (row + 1) * width; ++i)
            expected[i] *= gamma[i % width] / root * (norm_before_gate ? silu(i) : 1.0);
        }
        CHECK(largest_error(out, expected) <= 1e-5);
      }
    }
  }
}
