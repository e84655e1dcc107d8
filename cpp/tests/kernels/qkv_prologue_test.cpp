// QKV prologue: biases and RMS norms of heads, against double precision.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "tested_kernels.h"
#include "testing.h"

namespace {

struct Case {
  std::size_t tokens, heads, kv_heads, head_dim;
  bool biased, normed, in_place, joint = false;
};

double error_of(const Case& c, edgekiln::QkvPrologueKernel kernel) {
  std::mt19937 generator(3);
  std::normal_distribution<float> normal;
  const auto random_floats = [&](std::size_t count) {
    std::vector<float> values(count);
    std::generate(values.begin(), values.end(), [&] { return normal(generator); });
    return values;
  };
  edgekiln::QkvPrologueArgs args{};
  args.tokens = c.tokens;
  args.heads = c.heads;
  args.kv_heads = c.kv_heads;
  args.head_dim = c.head_dim;
  args.epsilon = 1e-3f;
  args.joint = c.joint;
  const std::size_t width = args.width();
  const std::vector<float> values = random_floats(c.tokens * width), bias = random_floats(width);
  const std::vector<float> gammas[2] = {random_floats(args.norm_width(false)), random_floats(args.norm_width(true))};
  const auto from = exactly(values), bias_memory = exactly(bias);
  const auto to = exactly(std::vector<float>(values.size(), NAN));
  const auto queries = exactly(gammas[0]), keys = exactly(gammas[1]);
  args.from = from.get();
  args.to = c.in_place ? from.get() : to.get();
  if (c.biased) args.bias = bias_memory.get();
  if (c.normed) {
    args.gammas[0] = queries.get();
    args.gammas[1] = keys.get();
  }
  kernel(args, edgekiln::kSerial);
  std::vector<double> expected(values.begin(), values.end());
  for (std::size_t at = 0; at < expected.size(); ++at)
    if (c.biased) expected[at] += bias[at % width];
  for (std::size_t token = 0; c.normed && token < c.tokens; ++token)
    for (std::size_t at = 0; at < (c.heads + c.kv_heads) * c.head_dim;) {
      const bool of_keys = at >= c.heads * c.head_dim;
      const std::size_t count = args.norm_width(of_keys);
      double* const part = &expected[token * width + at];
      double squares = 0.0;
      for (std::size_t i = 0; i < count; ++i) squares += part[i] * part[i];
      for (std::size_t i = 0; i < count; ++i) part[i] *= gammas[of_keys][i] / std::sqrt(squares / count + 1e-3);
      at += count;
    }
  double worst = 0.0;
  for (std::size_t at = 0; at < expected.size(); ++at) {
    const double error = std::abs(args.to[at] - expected[at]);
    worst = std::isnan(error) ? INFINITY : std::max(worst, error);
  }
  return worst;
}

const std::vector<Case> kCases = {{1, 9, 3, 64, true, false, false},    {3, 4, 2, 40, false, true, true},
                                  {40, 16, 8, 128, false, true, false}, {7, 2, 1, 9, true, true, false},
                                  {2, 1, 1, 8, true, true, true},       {3, 5, 2, 24, false, true, true, true},
                                  {2, 4, 4, 9, true, true, false, true}};

}  // namespace

TEST_CASE("QKV prologue matches double precision") {
  for (const edgekiln::KernelTable& kernels : tested_kernels()) {
    for (const Case& c : kCases) {
      INFO(kernels.instruction_set, ": ", c.tokens, " tokens of ", c.heads, " x ", c.head_dim);
      CHECK(error_of(c, kernels.qkv_prologue) <= 1e-5);
    }
  }
}
