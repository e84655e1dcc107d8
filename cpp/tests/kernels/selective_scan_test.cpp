// The selective scan of Mamba against its definition in double precision.
#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "recurrence_testing.h"
#include "tested_kernels.h"

namespace {

struct Case {
  std::size_t batch, length, channels, states;
};

const std::vector<Case> kCases = {{1, 1, 96, 16}, {2, 12, 33, 16}, {1, 5, 16, 8}, {1, 3, 70, 40}, {1, 30, 3, 64}};

}  // namespace

TEST_CASE("the selective scan matches double precision") {
  for (const edgekiln::KernelTable& kernels : tested_kernels()) {
    for (const Case& c : kCases) {
      INFO(kernels.instruction_set, ": ", c.batch, " x ", c.length, " x ", c.channels, ", ", c.states, " states");
      const std::size_t tokens = c.batch * c.length;
      const auto x = random_floats(tokens * c.channels, 1), dt = random_floats(tokens * c.channels, 2, 3.0f),
                 z = random_floats(tokens * c.channels, 3), b = random_floats(tokens * c.states, 4),
                 r = random_floats(tokens * c.states, 5), d = random_floats(c.channels, 6),
                 bias = random_floats(c.channels, 7), past = random_floats(c.batch * c.channels * c.states, 8);
      auto a = random_floats(c.channels * c.states, 9);
      for (float& each : a) each = -std::abs(each);
      std::vector<float> by_state(a.size());
      for (std::size_t i = 0; i < a.size(); ++i) by_state[i % c.states * c.channels + i / c.states] = a[i];
      std::vector<float> out(x.size(), NAN), present(past.size(), NAN);
      kernels.selective_scan({c.batch, c.length, c.channels, c.states, x.data(), dt.data(), by_state.data(), b.data(),
                              r.data(), d.data(), z.data(), bias.data(), past.data(), out.data(), present.data()},
                             kLastToFirst);
      std::vector<double> expected(out.size()), states(past.begin(), past.end());
      for (std::size_t token = 0; token < tokens; ++token) {
        for (std::size_t channel = 0; channel < c.channels; ++channel) {
          const std::size_t at = token * c.channels + channel;
          double* const state = states.data() + (token / c.length * c.channels + channel) * c.states;
          const double step = std::log1p(std::exp(static_cast<double>(dt[at]) + bias[channel]));
          double sum = static_cast<double>(d[channel]) * x[at];
          for (std::size_t i = 0; i < c.states; ++i) {
            state[i] = std::exp(step * a[channel * c.states + i]) * state[i] + step * x[at] * b[token * c.states + i];
            sum += state[i] * r[token * c.states + i];
          }
          expected[at] = sum * z[at] / (1.0 + std::exp(-static_cast<double>(z[at])));
        }
      }
      CHECK(largest_error(out, expected) <= 2e-5);
      CHECK(largest_error(present, states) <= 2e-5);
    }
  }
}
