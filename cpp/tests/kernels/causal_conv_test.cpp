// The causal convolution against its definition in double precision.
#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "recurrence_testing.h"
#include "tested_kernels.h"

namespace {

struct Case {
  std::size_t batch, length, channels, width;
  bool silu;
};

const std::vector<Case> kCases = {{1, 1, 96, 4, true}, {2, 2, 100, 4, true}, {1, 7, 1024, 3, false},
                                  {3, 9, 5, 4, true},  {1, 3, 64, 1, false}, {2, 40, 70, 16, true}};

}  // namespace

TEST_CASE("the causal convolution matches double precision") {
  for (const edgekiln::KernelTable& kernels : tested_kernels()) {
    for (const Case& c : kCases) {
      INFO(kernels.instruction_set, ": ", c.batch, " x ", c.length, " x ", c.channels, ", ", c.width, " wide");
      const std::size_t before = c.width - 1;
      const auto x = random_floats(c.batch * c.length * c.channels, 1), weight = random_floats(c.width * c.channels, 2),
                 bias = random_floats(c.channels, 3), past = random_floats(c.batch * c.channels * before, 4);
      std::vector<float> out(x.size(), NAN), present(past.size(), NAN);
      kernels.causal_conv({c.batch, c.length, c.channels, c.width, x.data(), weight.data(), bias.data(), past.data(),
                           c.silu, out.data(), present.data()},
                          kLastToFirst);
      std::vector<double> expected(out.size()), states(past.size());
      for (std::size_t sequence = 0; sequence < c.batch; ++sequence) {
        for (std::size_t channel = 0; channel < c.channels; ++channel) {
          const std::size_t state = (sequence * c.channels + channel) * before;
          const auto column = [&](std::size_t i) {
            return i < before ? past[state + i] : x[(sequence * c.length + i - before) * c.channels + channel];
          };
          for (std::size_t token = 0; token < c.length; ++token) {
            double sum = bias[channel];
            for (std::size_t i = 0; i < c.width; ++i)
              sum += static_cast<double>(weight[i * c.channels + channel]) * column(token + i);
            expected[(sequence * c.length + token) * c.channels + channel] =
                c.silu ? sum / (1.0 + std::exp(-sum)) : sum;
          }
          for (std::size_t i = 0; i < before; ++i) states[state + i] = column(c.length + i);
        }
      }
      CHECK(largest_error(out, expected) <= 1e-5);
      CHECK(largest_error(present, states) == 0.0);
    }
  }
}
